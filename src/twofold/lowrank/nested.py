"""What factorizations share whose ranks are nested: one of them serves every rank."""

from __future__ import annotations

from twofold.conv import Factors, Size


class Nested:
    """Every rank is at hand, so each may be tried: by the closed form, whose errors are predicted exactly."""

    def energy_error(self, ranks: Size) -> float:
        raise NotImplementedError

    def factors(self, ranks: Size) -> Factors:
        raise NotImplementedError

    def trial_ranks(self) -> None:
        return None

    def trial(self, ranks: Size) -> tuple[float, Factors]:
        return self.energy_error(ranks), self.closed_form.factors(ranks)

    @property
    def closed_form(self) -> Nested:
        """The same without alternations, which take long and are worth it at the ranks that are chosen."""
        return self
