"""What is equal on a board; needs no torch, so that a name that is no board is told at once."""

from dataclasses import dataclass

__all__ = ["BUDGETS", "Budget"]

BUDGETS = ("parameters", "state_size", "flops")


@dataclass(frozen=True)
class Budget:
    """What is equal on a board: `kind`, one of `BUDGETS`, and how much of it."""

    kind: str
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.amount:,.0f}" if self.amount < 1e9 else f"{self.kind} {self.amount:.3g}"
