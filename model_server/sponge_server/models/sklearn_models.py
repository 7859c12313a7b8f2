"""`sklearn:///model.skops`: an estimator or pipeline of scikit-learn that skops has saved.

A file of skops names the types of its objects, and only those of scikit-learn's own models are made from it, so it can
run no code of others. Further types are listed with `?trusted=a.B,c.D`. A pickle of joblib needs `?allow_pickle=true`.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sponge_core.errors import needs_extra
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.workers.interface import ModelError, RefusedError, TensorSpec

__all__ = ["load"]

_STRUCTURES = (
    "sklearn.tree._tree.",
    "sklearn._loss.",
    "sklearn.ensemble._hist_gradient_boosting.",
    "sklearn.metrics._dist_metrics.",
    "sklearn.neighbors._ball_tree.",
    "sklearn.neighbors._kd_tree.",
)
"""Modules of scikit-learn that hold the data of its models and nothing else; skops does not list their types."""

_BY_VOTE = ("SVC", "NuSVC")
"""Classifiers whose label is not always that of the largest probability."""


def load(source: Source) -> LoadedModel:
    """Loads the estimator. Raises ModelError, with the fix."""
    source.only("trusted", "allow_pickle")
    path = Path(source.target)
    try:
        with path.open("rb") as file:
            first = file.read(2)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read ({error.strerror}); write sklearn:///absolute/path.skops") from None
    estimator = _from_skops(path, source) if first == b"PK" else _from_pickle(path, source)
    if not any(hasattr(estimator, name) for name in ("predict", "transform")):
        raise ModelError(f"'{path}' holds a {type(estimator).__name__}, which has neither predict nor transform")
    _on_one_thread(estimator)
    return _served(path, estimator)


def _from_skops(path: Path, source: Source) -> Any:
    try:
        import skops.io
    except ImportError:
        raise ModelError(needs_extra("sklearn://", "skops", "sklearn")) from None
    listed = [name for name in source.options.get("trusted", "").split(",") if name]
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("schema.json")
        found = skops.io.get_untrusted_types(file=path)
        trusted = [*listed, *(name for name in found if name.startswith(_STRUCTURES))]
        unknown = sorted(set(found) - set(trusted))
        if unknown:
            more = ",".join([*listed, *unknown])
            raise ModelError(
                f"'{path}' has objects of the types {', '.join(unknown)}, which skops does not know: if you trust the "
                f"file, write sklearn://{path}?trusted={more}"
            )
        return skops.io.load(path, trusted=trusted)
    except ModelError:
        raise
    except KeyError:
        raise ModelError(f"'{path}' is no file of skops: save the model with skops.io.dump(model, path)") from None
    except (zipfile.BadZipFile, OSError):
        raise ModelError(f"'{path}' is cut short or damaged: copy it again") from None
    except ImportError as error:
        raise ModelError(f"'{path}' needs {error.name}: pip install {error.name} where the server runs") from None
    except Exception as error:  # noqa: BLE001 - the loader raises anything
        raise ModelError(
            f"'{path}' cannot be loaded by skops ({_line(error)}): save it with the same versions"
        ) from None


def _from_pickle(path: Path, source: Source) -> Any:
    if source.options.get("allow_pickle") != "true":
        raise ModelError(
            f"'{path}' is no file of skops; if it is a pickle, it may run any code: save the model with "
            "skops.io.dump(model, path), or trust the file and add ?allow_pickle=true"
        )
    try:
        import joblib
    except ImportError:
        raise ModelError(needs_extra("sklearn://", "scikit-learn", "sklearn")) from None
    try:
        return joblib.load(path)
    except Exception as error:  # noqa: BLE001 - a pickle raises anything
        raise ModelError(f"'{path}' cannot be read as a pickle of joblib ({_line(error)})") from None


def _on_one_thread(estimator: Any) -> None:
    """A lane decides on threads, and an estimator's own pool would not heed it."""
    names = [name for name in estimator.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
    estimator.set_params(**dict.fromkeys(names, 1))


def _served(path: Path, estimator: Any) -> LoadedModel:
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    if hasattr(first, "build_analyzer"):  # what turns texts into numbers
        return _model(estimator, TensorSpec("text", "BYTES", ()), _texts)
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise ModelError(f"'{path}' is not fitted: call fit before it is saved")
    return _model(estimator, TensorSpec("x", "FP64", (int(width),)), _frame(estimator))


def _model(estimator: Any, spec: TensorSpec, prepared: Callable[[Any], Any]) -> LoadedModel:
    classes: Any = getattr(estimator, "classes_", None)
    simple = isinstance(classes, np.ndarray) and classes.ndim == 1
    by_vote = type(estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator).__name__ in _BY_VOTE

    def forward(given: Any) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same about every batch, such as names of columns
            rows = prepared(given)
            if not hasattr(estimator, "predict"):
                return {"features": _dense(estimator.transform(rows))}
            if not (simple and hasattr(estimator, "predict_proba")):
                return {"label" if simple else "value": _dense(estimator.predict(rows))}
            shares = estimator.predict_proba(rows)
            labels = estimator.predict(rows) if by_vote else classes[shares.argmax(1)]
            return {"probabilities": _dense(shares), "label": _dense(labels)}

    names = tuple(str(name) for name in classes) if simple and hasattr(estimator, "predict_proba") else None
    return LoadedModel(forward, (spec,), "sklearn", labels=names)


def _texts(given: Any) -> list[str]:
    try:
        return [text.decode() for text in given]
    except UnicodeDecodeError:
        raise RefusedError("the text is not UTF-8: encode it so") from None


def _frame(estimator: Any) -> Callable[[Any], Any]:
    """Rows as the estimator was fitted with: with names of columns, if it knows some and pandas is here."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        try:
            import pandas
        except ImportError:
            names = None
    return (lambda x: x.numpy()) if names is None else (lambda x: pandas.DataFrame(x.numpy(), columns=names))


def _dense(values: Any) -> Any:
    """Numbers as a tensor, strings as an array of objects."""
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    return values.astype(object) if values.dtype.kind in "USO" else torch.from_numpy(np.ascontiguousarray(values))


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
