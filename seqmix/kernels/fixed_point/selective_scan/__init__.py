"""The fixed-point Mamba's recurrence: the selective scan around the same mixing."""
