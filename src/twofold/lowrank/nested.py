"""What factorizations share whose ranks are nested: one of them serves every rank."""

from __future__ import annotations

from twofold.conv import Factors, Size


class Nested:
    """Every rank is at hand, so each may be tried."""

    def energy_error(self, ranks: Size) -> float:
        raise NotImplementedError

    def factors(self, ranks: Size) -> Factors:
        raise NotImplementedError

    def trial_ranks(self) -> None:
        return None

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        return self.energy_error(ranks), self.factors(ranks)
