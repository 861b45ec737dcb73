"""What is fixed about a stream's draws before the first of them: how many looks at its counts, how many stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rrise.trainer.errors import TrainerError

if TYPE_CHECKING:
    from rrise.trainer.montecarlo.storage.store import CountStore


class Plans:
    """Kept in the attributes of a stream, which every process of a run reads anew."""

    def __init__(self, store: CountStore) -> None:
        self._store, self._stream = store, store.identity.stream

    def looks(self) -> tuple[int, ...]:
        """The N at which all frames were finished, smallest first: the counts could be looked at there.

        Raising N after looking costs confidence: a bound that shall hold with miss probability beta at whichever of them
        one stops is taken at beta / planned at each, with a number `fix_looks` that was fixed before the first. Beta
        divided by the looks so far is not enough: over nine looks it misses with probability .14 instead of .1.
        """
        found: Any = self._store.attribute("looks") or ()
        return tuple(int(size) for size in found)

    def fix_looks(self, planned: int, num_samples: int) -> int:
        """Keep how many looks there may be, before the first draw; returns that number.

        Raises:
            TrainerError: another number was kept before, or finishing at `num_samples` would be a look too many.
        """
        looks = self.looks()
        # Counts from before the number was kept: those looks were what they were.
        first = max(len(looks), 1) if looks else planned
        kept = self._fixed("planned_looks", first, "the number of looks")
        if kept != planned:
            raise TrainerError(
                f"stream {self._stream!r}: got looks = {planned}, expected {kept}, which was fixed before its counts "
                f"were drawn; set [targets] looks = {kept}, or draw new calibration frames"
            )
        # An N that was begun and given up leaves frames of several sizes, each looked at: to go on with it is one look more.
        number = len({*looks, num_samples})
        if number > planned and (num_samples not in looks or self._store.missing(num_samples)):
            raise TrainerError(
                f"stream {self._stream!r}: {num_samples} samples would be look {number} at its counts, finished "
                f"at {', '.join(map(str, looks))} before, and [targets] looks = {planned} was fixed beforehand; keep that N, or "
                "draw new calibration frames (another [splits] seed) with a larger looks"
            )
        return planned

    def fix_refinement(self, first: int, last: int) -> None:
        """Keep, before the first draw, how many draws every frame has, and at how many those end that go on; 0: none do.

        Raises:
            TrainerError: other numbers were kept before, or the counts were looked at without any.
        """
        looks = self.looks()
        kept = self._fixed("planned_refinement", 0 if looks else last, "the planned refinement")
        if kept != last:
            raise TrainerError(
                f"stream {self._stream!r}: got refine = {last}, expected {kept}, which was fixed before its counts "
                f"were drawn; set [targets] refine = {kept}, or draw new calibration frames (another [splits] seed)"
            )
        if not last:
            return
        # Of a store from before it was kept, the first look is that at the end of the first stage.
        began = self._fixed("planned_first", min(looks) if looks else first, "the planned first stage")
        if began != first:
            name = self._stream
            raise TrainerError(
                f"stream {name!r}: got {first} first draws with refine = {last}, expected {began}, which was fixed before its "
                f"counts were drawn; set [targets] {name} = {began}, or draw new calibration frames (another [splits] seed)"
            )

    def record_look(self, num_samples: int) -> None:
        """Note that every frame has `num_samples` now."""
        looks = self.looks()
        if num_samples not in looks:
            self._store.note("looks", sorted((*looks, num_samples)), "that the samples are complete")

    def _fixed(self, name: str, first: int, what: str) -> int:
        """The number that the attribute `name` keeps: `first`, as long as nothing is drawn. what: for the message."""
        kept: Any = self._store.attribute(name)
        if kept is None or (int(kept) != first and not self._store.samples().any()):
            self._store.note(name, first, what)
            return first
        return int(kept)
