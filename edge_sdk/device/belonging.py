"""Whether references belong to a bundle, and which of their frames are independent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.guarded import guarded_reference
from rrise.calibration.promise.record import Calibration
from rrise.calibration.tables.references import References
from rrise.edge_sdk.bundles.bundle import Bundle
from rrise.edge_sdk.formats.contract import same_float32

_OWN = "get the pack that was exported with this bundle"


def misfit(bundle: Bundle, record: Calibration, references: References, *, split: str) -> str:
    """Why these references say nothing about this bundle, with what to do; empty when they do.

    Args:
        split: what they are to be used for: "calibration" or "verification".
    """
    manifest = bundle.manifest
    calibrates = references.split == "calibration" or references.frames_digest == record.calibration_digest
    if split != "calibration" and calibrates:
        return "they are calibration frames, which the offset was fitted on; use the verification pack, or recalibrate with these"
    if split == "calibration" and references.split != "calibration":
        return f"they are {references.split} frames, which no offset may be fitted on; use a pack of split 'calibration'"
    if references.base_digest != manifest.base_digest:
        return f"they were drawn from another base classifier; {_OWN}"
    if not same_float32([references.sigma], [manifest.sigma]):
        return f"they were drawn at sigma {references.sigma}, the bundle's is {manifest.sigma}; {_OWN}"
    if references.class_names != manifest.class_names:
        return f"their classes have other names or another order; {_OWN}"
    if references.frames.shape[1:] != manifest.input.frame_shape or manifest.input.dtype != "uint8":
        taken = f"{manifest.input.dtype} {manifest.input.frame_shape}"
        return f"their frames are uint8 {references.frames.shape[1:]}, the bundle takes {taken}; {_OWN}"
    if float(references.beta) != float(record.guarantee.beta):
        return f"their radii have beta {references.beta}, the guarantee {float(record.guarantee.beta)}; make them with that"
    # At most few classes of a frame have a radius, so that this is cheap with many classes.
    beyond = references.unproved(*np.nonzero(references.radius > 0))
    if beyond.any():
        return f"{int(beyond.sum())} of their reference radii are larger than their counts prove; make the pack again"
    exported = manifest.references.get(references.split, {})
    # The same numbers with levels beside them, as a workspace writes its packs anew, belong to a bundle from before, too.
    forms = (references, replace(references, level=None))
    if exported.get("frames") == references.frames_digest and all(
        exported.get("content") != form.content_digest for form in forms
    ):
        return f"their frames are those of the export, but their counts, clips or radii are not; {_OWN}"
    if not len(references) or int(references.num_samples.min()) < record.num_samples[0]:
        return f"they need frames with at least {record.num_samples[0]} Monte Carlo samples each, as in calibration"
    return ""


def to_keep(reference: np.ndarray, guarantee: Guarantee) -> np.ndarray:
    """What a radius may not exceed, float32 [n]: the reference radius, less rho (rounded down) in the guarded tier."""
    guard = guarantee.guard
    return np.asarray(reference) if guard is None else guarded_reference(reference, guard.rho)


def independent_rows(references: References, seed: int = 0) -> np.ndarray:
    """One uniformly drawn frame of each clip, without copies: int64 [m], sorted.

    Frames of one clip are not independent of each other (calibration/README.md, "Conditions").
    """
    order = np.random.default_rng(seed).permutation(len(references))
    chosen = order[np.unique(references.clip[order], return_index=True)[1]]
    return np.sort(chosen[np.unique(references.digest[chosen], return_index=True)[1]])
