"""The page `report.html` of a bundle: what is promised, what each precision is worth, what it was made from."""

from __future__ import annotations

from typing import Sequence

from rrise.calibration.reports.page import Page
from rrise.export.gating.quality import Quality, flags, quality_table
from rrise.export.source import ExportSource


def bundle_page(source: ExportSource, qualities: Sequence[Quality]) -> bytes:
    """The page as bytes. It holds no times and no latencies, so that equal releases have equal bytes."""
    page = Page("rrise bundle")
    page.paragraph(source.guarantee.sentence())
    page.note(source.guarantee.limits())
    hourly = source.guarantee.wrong_per_hour(source.frame_rate)
    page.paragraph(
        f"At {source.frame_rate:g} frames a second this permits {hourly:,.0f} wrong certificates an hour. Radii are L2, "
        f"in [0, 1] pixel units of the network's input; sigma is {source.sigma:g}."
    )
    page.heading("Precisions")
    page.paragraph(
        f"Certified accuracy on {qualities[0].frames} verification frames, abstentions counted as wrong; in brackets the "
        f"ratio to {qualities[0].artefact}. It counts wrong certificates too, which the promise permits; net leaves out those "
        "that exceed the true radius by the share of the frame's own Monte Carlo draws. Each precision has its own offset, "
        "calibrated on its own outputs."
    )
    page.table(*quality_table(qualities))
    for quality in qualities:
        page.note(f"{quality.artefact}: {quality.among_issued}.")
    for sentence in flags(qualities):
        page.note(sentence)
    page.heading("Made from")
    made_from = {
        "base classifier": source.base_digest,
        "surrogate": source.surrogate_digest,
        **{f"{split} frames": digest for split, digest in source.split_digests.items()},
    }
    page.table(["part", "SHA-256"], [[name, digest] for name, digest in made_from.items()])
    return page.render().encode()
