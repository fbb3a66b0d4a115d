"""The fixed-point RNN's recurrence: a diagonal one whose input is mixed over channels."""
