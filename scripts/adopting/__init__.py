"""What `scripts/adopt.py` is made of: the table of files, the merges, the plan, the writing."""


class AdoptError(Exception):
    """Nothing was written; `next_step` says what to do about it."""

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step
