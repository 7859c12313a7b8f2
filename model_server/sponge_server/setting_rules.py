"""Settings that must fit together: a model and its variants, the files of TLS, model control; the sizes of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sponge_core.errors import SpongeError

__all__ = [
    "ContradictionError",
    "ModelSettings",
    "VariantSettings",
    "check_model_control",
    "check_tls",
    "sizes_milli",
    "variants_of",
]


class ContradictionError(SpongeError):
    """Settings that are valid alone but not together. `text` contains `{field}` for each of `values`."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text.format_map({name: f"{name.replace('_', '-')} {value}" for name, value in values.items()}))
        self.text = text
        self.values = values


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Settings of one model: name, source, largest batch in rows, profile, and default SLO in seconds."""

    name: str
    source: str
    max_batch: int
    profile: str
    slo_s: float


@dataclass(frozen=True, slots=True)
class VariantSettings:
    """A cheaper variant: its accuracy, and how it is loaded. Its name in `settings` is MODEL/VARIANT."""

    name: str
    accuracy: float
    settings: ModelSettings


def variants_of(
    models: Sequence[ModelSettings],
    sources: Mapping[str, str],
    accuracies: Mapping[str, float],
    floors: Mapping[str, float],
    profiles: Mapping[str, str],
) -> tuple[VariantSettings, ...]:
    """The variants of the one model, the most accurate first.

    Args:
        sources: by name of the variant.
        accuracies: by name of the model or variant.
        floors: by SLO class.
        profiles: by name; a variant without one of its own measures it.

    Raises:
        ContradictionError: they do not fit together; the text names the setting to change.
    """
    if not sources:
        for name, floor in floors.items():
            text = "{accuracy_floor} without variant: name a variant that may answer, or leave the floor out"
            raise ContradictionError(text, accuracy_floor=f"{name}={floor:g}")
        return ()
    first = next(iter(sources))
    if len(models) > 1:
        text = (
            f"{{variant}} with {len(models)} models: a server with variants has one model; serve the others elsewhere"
        )
        raise ContradictionError(text, variant=first)
    model = models[0]
    for name in (model.name, *sources):
        if name not in accuracies:
            raise ContradictionError(
                f"{{variant}}: also say how accurate {name} is, as --accuracy {name}=0.7", variant=first
            )
    found = []
    for name, source in sources.items():
        if name == model.name:
            raise ContradictionError("{variant} has the name of the model: choose another", variant=name)
        if accuracies[name] > accuracies[model.name]:
            known = f"{model.name}={accuracies[model.name]:g}"
            text = f"{{accuracy}} is above {known}: serve the better one as the model"
            raise ContradictionError(text, accuracy=f"{name}={accuracies[name]:g}")
        settings = ModelSettings(
            f"{model.name}/{name}", source, model.max_batch, profiles.get(name, "auto"), model.slo_s
        )
        found.append(VariantSettings(name, accuracies[name], settings))
    return tuple(sorted(found, key=lambda variant: -variant.accuracy))


def check_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """Raises ContradictionError when one of the files needs another."""
    pair = (cert, key)
    if None in pair and pair != (None, None):
        given, missing = ("tls_cert_file", "tls-key-file") if key is None else ("tls_key_file", "tls-cert-file")
        raise ContradictionError(f"{{{given}}} without {missing}: give both", **{given: cert or key})
    if client_ca is not None and cert is None:
        text = "{tls_client_ca_file} needs TLS: give tls-cert-file and tls-key-file too"
        raise ContradictionError(text, tls_client_ca_file=client_ca)


def check_model_control(mode: str, token: Path | None, variants: Mapping[str, str]) -> None:
    """Raises ContradictionError when the mode of model control needs something, or does not go with variants."""
    if mode == "none":
        return
    if token is None:
        text = "{model_control} needs control-token-file: whoever loads a model runs code, so it takes the token"
        raise ContradictionError(text, model_control=mode)
    if variants:
        text = "{model_control} with variants: they belong to one version of the model; leave one of the two out"
        raise ContradictionError(text, model_control=mode)


def sizes_milli(low: int, high: int, step: int) -> tuple[int, ...]:
    """Ascending sizes from `low` in steps of `step` >= 1, and always `high`; only `high` when it is below `low`."""
    return (*range(low, high, step), high)
