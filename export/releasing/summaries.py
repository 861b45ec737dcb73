"""What the command line says about an export: rows for people and JSON for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Sequence, Tuple

from rrise.edge_sdk.bundles.described import base_sentence, copies_rows
from rrise.export.gating.gate_report import GateReport
from rrise.export.gating.quality import Quality, flags, ratio

if TYPE_CHECKING:
    from rrise.export.pipeline import ExportResult

SummaryRows = List[Tuple[str, str]]


def result_rows(
    result: "ExportResult", latency: Dict[str, Dict[str, float]], notes: Sequence[str] = ()
) -> SummaryRows:
    """What `rrise-export onnx` prints at the end."""
    rows: SummaryRows = [("bundle", str(result.path)), ("release", result.manifest.digest[:16])]
    for product, quality, report in zip(result.products, result.qualities, result.reports):
        rows.append((product.name, product.record.message()))
        rows.append(("  gate", f"{len(report.checks)} checks passed"))
        rows += comparison_rows(report)
        rows += quality_rows(quality, result.qualities[0])
        times = latency[product.name]
        rows.append(
            (
                "  latency here",
                f"p50 {times['p50_us']:.0f} us ({times['p50_ratio']:.3f}x), p99 {times['p99_us']:.0f} us",
            )
        )
    rows += copies_rows(result.manifest.copies)
    rows += [("base classifier", base_sentence(result.manifest.base_digest, result.manifest.base))]
    rows += [("guarantee", result.products[0].record.guarantee.sentence())]
    rows += [(f"{item.precision} left out", item.why) for item in result.left_out]
    rows += [("note", sentence) for sentence in notes]
    return rows


def comparison_rows(report: GateReport) -> SummaryRows:
    """How the outputs of a file differ from the reference; no rows where they were not compared."""
    found, needed = report.comparison, report.needed
    if found is None or needed is None:
        return []
    return [
        (
            "  against PyTorch",
            f"{found.label_flips} label and {found.abstain_flips} abstain flips in {found.frames} frames; radius at most "
            f"+{max(found.radius_increase, 0):.2g} (99.9 %: +{max(found.radius_increase_999, 0):.2g}), "
            f"-{max(found.radius_decrease, 0):.2g} (-{max(found.radius_decrease_999, 0):.2g})",
        ),
        (
            "  least tolerance",
            f"label flips {needed.label_flips:.2g}, abstain flips {needed.abstain_flips:.2g}, probit {needed.probit:.2g}, "
            f"radius {needed.radius_increase:.2g} sigma",
        ),
    ]


def quality_rows(quality: Quality, reference: Quality) -> SummaryRows:
    """What a file is worth beside the reference: size, offset, certified accuracy."""
    size = f"{quality.size:,} B ({ratio(quality.size, reference.size)}), offset {quality.offset:.4f} "
    return [
        ("  size, offset", size + f"({ratio(quality.offset, reference.offset)})"),
        ("  at radius", _cells(f"{radius:.3g}" for radius in quality.radii)),
        ("  certified accuracy", _cells(f"{value:.3f}" for value in quality.certified_accuracy)),
        ("    net of wrong ones", _cells(f"{value:.3f}" for value in quality.net)),
        ("  wrong among issued", _cells(f"{value:.3f}" for value in quality.wrong)),
        ("  among issued", quality.among_issued),
    ]


def _cells(texts: Iterable[str]) -> str:
    return " ".join(f"{text:>6}" for text in texts) or "no true class is known"


def result_json(result: "ExportResult") -> Dict[str, Any]:
    """The same as `result_rows` for machines."""
    return {
        "bundle": str(result.path),
        "release": result.manifest.digest,
        "artefacts": {product.name: product.record.to_json() for product in result.products},
        "quality": {quality.artefact: quality.to_json() for quality in result.qualities},
        "base": None if result.manifest.base is None else result.manifest.base.to_json(),
        "flags": flags(result.qualities),
        "left_out": [vars(item) for item in result.left_out],
        "gate": [report.to_json() for report in result.reports],
    }
