"""`sklearn://`: estimators trained here, saved by skops, and answers equal to scikit-learn's own."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from sponge_server.models.source import load
from sponge_server.workers.interface import ModelError, RefusedError, TensorSpec

pytestmark = pytest.mark.torch

IRIS = load_iris()
NAMES = np.array(["setosa", "versicolor", "virginica"])


def saved(path: Path, estimator: Any) -> str:
    skops.io.dump(estimator, path)
    return f"sklearn://{path}"


def answers(url: str, x: Any) -> dict[str, Any]:
    given = torch.from_numpy(x) if x.dtype != object else x
    return {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in load(url).run([given])}


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(20, random_state=0, n_jobs=2),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), SVC()),
        HistGradientBoostingClassifier(max_iter=3),
        GradientBoostingClassifier(n_estimators=3),
        KNeighborsClassifier(algorithm="kd_tree"),
    ],
    ids=["forest", "pipeline", "votes", "histograms", "boosting", "neighbours"],
)
def test_a_classifier_answers_as_the_library(tmp_path: Path, estimator: Any) -> None:
    estimator.fit(IRIS.data, NAMES[IRIS.target])
    url = saved(tmp_path / "m.skops", estimator)
    found = answers(url, IRIS.data)
    assert list(found["label"]) == list(estimator.predict(IRIS.data))
    if hasattr(estimator, "predict_proba"):
        assert np.allclose(found["probabilities"], estimator.predict_proba(IRIS.data))
        assert load(url).labels == tuple(NAMES)
    assert load(url).inputs == (TensorSpec("x", "FP64", (4,)),)


def test_regressors_clusters_and_transformers_are_models_too(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    ridge = Ridge().fit(x, y)
    assert np.allclose(answers(saved(tmp_path / "r.skops", ridge), x)["value"], ridge.predict(x))
    means = KMeans(3, n_init=1, random_state=0).fit(x)
    assert (answers(saved(tmp_path / "k.skops", means), x)["value"] == means.predict(x)).all()
    scaler = StandardScaler().fit(x)
    assert np.allclose(answers(saved(tmp_path / "s.skops", scaler), x)["features"], scaler.transform(x))


def test_a_pipeline_of_texts_takes_strings(tmp_path: Path) -> None:
    texts = ["good film", "great film", "bad film", "awful film"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 1, 0, 0])
    url = saved(tmp_path / "m.skops", model)
    given = np.array([text.encode() for text in texts], object)
    assert answers(url, given)["label"].tolist() == model.predict(texts).tolist()
    with pytest.raises(RefusedError, match="not UTF-8"):
        answers(url, np.array([b"\xff"], object))


def shift(x: Any) -> Any:
    return x + 1


def test_types_that_skops_does_not_know_need_trust(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(shift), Ridge()).fit(IRIS.data, IRIS.target)
    url = saved(tmp_path / "m.skops", model)
    with pytest.raises(ModelError, match=r"write sklearn://.*\?trusted=.*shift") as told:
        load(url)
    trusted = str(told.value).rpartition("write ")[2]
    assert np.allclose(answers(trusted, IRIS.data)["value"], model.predict(IRIS.data))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = saved(tmp_path / "m.skops", Ridge().fit(IRIS.data, IRIS.target))
    for name in ("skops", "skops.io"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=r"sklearn:// needs skops: pip install 'sponge-serving\[sklearn\]'"):
        load(url)


def test_a_pickle_needs_to_be_allowed(tmp_path: Path) -> None:
    model = Ridge().fit(IRIS.data, IRIS.target)
    joblib.dump(model, tmp_path / "m.joblib")
    with pytest.raises(ModelError, match=r"may run any code: save the model with skops.io.dump.*\?allow_pickle=true"):
        load(f"sklearn://{tmp_path}/m.joblib")
    assert np.allclose(
        answers(f"sklearn://{tmp_path}/m.joblib?allow_pickle=true", IRIS.data)["value"], model.predict(IRIS.data)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file.*write sklearn:///absolute/path.skops"),
        (b"PK\x03\x04cut", "cut short or damaged: copy it again"),
        (pickle.dumps(1), r"is no file of skops; if it is a pickle"),
    ],
)
def test_other_files_are_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.skops").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(f"sklearn://{tmp_path}/m.skops")


def test_what_is_not_fitted_or_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not fitted: call fit before"):
        load(saved(tmp_path / "a.skops", Ridge()))
    with pytest.raises(ModelError, match="has neither predict nor transform"):
        load(saved(tmp_path / "b.skops", {"a": 1}))
