"""The page `report.html` of a bundle: what is promised, what each precision is worth, what it holds and was made from."""

from __future__ import annotations

from typing import List, Mapping, Sequence, Tuple

from rrise.calibration.reports.page import Page
from rrise.edge_sdk.bundles.described import base_sentence, copies_rows
from rrise.export.gating.quality import Quality, by_quantity, flags, quality_table
from rrise.export.source import ExportSource


def bundle_page(source: ExportSource, qualities: Sequence[Quality], versions: Mapping[str, str]) -> bytes:
    """The page as bytes. It holds no times and no latencies, so that equal releases have equal bytes.

    versions: name -> version of what made the bundle.
    """
    page = Page("rrise bundle: label and certified radius in one forward pass")
    promise_part(page, source)
    page.heading("What it holds")
    page.table(("what", ""), _contents(source, qualities, versions))
    page.heading("Precisions")
    page.paragraph(
        f"Certified accuracy on {qualities[0].frames} verification frames, abstentions counted as wrong; in brackets the "
        f"ratio to {qualities[0].artefact}. It counts wrong certificates too, which the promise permits; net leaves out those "
        "that exceed the true radius by the share of the frame's own Monte Carlo draws. Each precision has its own offset, "
        "calibrated on its own outputs."
    )
    page.table(*by_quantity(*quality_table(qualities)))
    for quality in qualities:
        page.note(f"{quality.artefact}: {quality.among_issued}.")
    for sentence in flags(qualities):
        page.note(sentence)
    made_from = {
        "base classifier": source.base_digest,
        "surrogate": source.surrogate_digest,
        **{f"{split} frames": digest for split, digest in source.split_digests.items()},
    }
    with page.folded("Digests (SHA-256): what it was made from"):
        page.table(["part", "SHA-256"], [[name, digest] for name, digest in made_from.items()])
    return page.render().encode()


def promise_part(page: Page, source: ExportSource) -> None:
    """The promise in words, its limits, and what it permits; conditions folded away."""
    page.paragraph(source.guarantee.sentence())
    page.note(source.guarantee.limits())
    hourly = source.guarantee.wrong_per_hour(source.frame_rate)
    page.paragraph(
        f"At {source.frame_rate:g} frames a second this permits {hourly:,.0f} wrong certificates an hour. Radii are L2, "
        f"in [0, 1] pixel units of the network's input; sigma is {source.sigma:g}."
    )
    with page.folded("Conditions of the promise"):
        page.bullets(source.guarantee.conditions())


def _contents(
    source: ExportSource, qualities: Sequence[Quality], versions: Mapping[str, str]
) -> List[Tuple[str, str]]:
    names, frame = source.class_names, "x".join(map(str, source.preprocess.frame_shape))
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return [
        ("classes", f"{len(names)}: {shown}"),
        ("frame", f"{frame} {source.preprocess.encoding}"),
        ("precisions", ", ".join(quality.artefact for quality in qualities)),
        *copies_rows(source.copies),
        ("base classifier", base_sentence(source.base_digest, source.base)),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))),
    ]
