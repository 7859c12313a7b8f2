"""Variants in the server: settings, floors, the engine in virtual time, and one real server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from engine_world import MODEL, World
from pydantic import ValidationError
from server_process import PROFILE, ServerProcess
from virtual_time import INFO, VirtualLoop, run_virtual

from sponge_core.deadlines import Arrival, BadHeaderError, Due, SloPolicy, resolve
from sponge_server.model_handle import ServedVariant
from sponge_server.settings import ContradictionError, ServerSettings
from sponge_server.startup.variants import check_variant, useful
from sponge_server.workers.interface import ModelError, TensorSpec

TWO = {"half": "digits://", "tenth": "digits://"}
ACCURACY = {"m": 0.76, "half": 0.7, "tenth": 0.6}
VARIANTS = (ServedVariant("half", 0.7, 1, MODEL.scaled(0.5)), ServedVariant("tenth", 0.6, 2, MODEL.scaled(0.1)))
POLICY = SloPolicy(1.0, {"gold": 0.3, "bulk": 5.0}, floors={"default": 0.7, "bulk": 0.6})


def settings(**changes: Any) -> ServerSettings:
    given: dict[str, Any] = {
        "model": {"m": "digits://"},
        "variant": TWO,
        "accuracy": ACCURACY,
        "profile": "tenth=tenth.yaml",
    }
    return ServerSettings(**(given | changes))


def test_variants_are_loaded_after_the_model_the_most_accurate_first() -> None:
    found = settings(variant=dict(reversed(TWO.items())), max_batch="m=4")
    assert [variant.name for variant in found.variants] == ["half", "tenth"]
    assert [(each.name, each.max_batch, each.profile) for each in found.loaded] == [
        ("m", 4, "auto"),
        ("m/half", 4, "auto"),
        ("m/tenth", 4, "tenth.yaml"),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accuracy": {"m": 0.76, "half": 0.7}}, "say how accurate tenth is, as --accuracy tenth=0.7"),
        ({"accuracy": ACCURACY | {"half": 0.8}}, "accuracy half=0.8 is above m=0.76"),
        ({"accuracy": ACCURACY | {"other": 0.8}}, "there is no such model"),
        ({"accuracy": ACCURACY | {"half": 0.0}}, "greater than 0"),
        ({"accuracy": ACCURACY | {"half": math.nan}}, "finite number"),
        ({"model": {"m": "digits://", "n": "digits://"}}, "a server with variants has one model"),
        ({"variant": TWO | {"m": "digits://"}}, "variant m has the name of the model"),
        ({"variant": {}, "accuracy": {}, "profile": "auto", "accuracy_floor": {"default": 0.5}}, "without variant"),
        ({"accuracy_floor": {"gold": 0.5}}, "there is no such class, only default"),
        ({"accuracy_floor": {"default": 1.5}}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_fix(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, ContradictionError), match=re.escape(said)):
        settings(**changes)


def due(headers: dict[str, str]) -> Due:
    return resolve(Arrival.of({name.encode(): value.encode() for name, value in headers.items()}, 0.0, 0.0), POLICY)


@pytest.mark.parametrize(
    ("headers", "floor"),
    [
        ({}, 0.7),
        ({"x-sponge-slo-class": "gold"}, math.inf),
        ({"x-sponge-slo-class": "bulk"}, 0.6),
        ({"x-sponge-accuracy-floor": "0.65"}, 0.7),
        ({"x-sponge-accuracy-floor": "0.75"}, 0.75),
        ({"x-sponge-slo-class": "gold", "x-sponge-accuracy-floor": "0.65"}, 0.65),
        ({"x-sponge-slo-class": "bulk", "x-sponge-accuracy-floor": "1"}, 1.0),
    ],
)
def test_a_request_may_raise_the_floor_of_its_class(headers: dict[str, str], floor: float) -> None:
    assert due(headers).floor == floor


@pytest.mark.parametrize("value", ["0", "-1", "1.01", "nan", "much", ""])
def test_an_invalid_floor_is_refused(value: str) -> None:
    with pytest.raises(BadHeaderError, match="x-sponge-accuracy-floor"):
        due({"x-sponge-accuracy-floor": value})


def test_the_floor_of_the_body_counts_where_no_header_has_one() -> None:
    assert due({}).with_body_floor(0.75, POLICY).floor == 0.75
    assert due({}).with_body_floor(0.1, POLICY).floor == 0.7
    assert due({"x-sponge-slo-class": "gold"}).with_body_floor(1, POLICY).floor == 1.0
    assert due({"x-sponge-accuracy-floor": "0.8"}).with_body_floor(0.9, POLICY).floor == 0.8
    for wrong in (True, "0.7", 0, 1.5, None, [0.7]):
        with pytest.raises(BadHeaderError, match="accuracy_floor"):
            due({}).with_body_floor(wrong, POLICY)


def test_a_variant_takes_and_gives_what_the_model_does() -> None:
    check_variant(INFO, replace(INFO, name="fake/other", max_batch=2, platform="onnxruntime_onnx"))
    with pytest.raises(ModelError, match="fake/other differs from the model in its inputs"):
        check_variant(INFO, replace(INFO, name="fake/other", inputs=(TensorSpec("z", "FP32", (1,)),)))


def test_a_variant_that_is_not_faster_is_not_used() -> None:
    chosen = settings().variants
    model = replace(MODEL, max_batch=8)
    found = useful(model, chosen, [model.scaled(0.99), model.scaled(0.2)], 1)
    assert [(variant.name, variant.index) for variant in found] == [("tenth", 2)]
    assert len(useful(model, chosen, [model.scaled(0.5), model.scaled(0.2)], 1)) == 2


def test_under_overload_variants_answer_as_far_as_floors_allow() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, variants=VARIANTS)
        gold = [world.submit(slo_s=0.6) for _ in range(2)]
        others = [world.submit(slo_s=0.6, floor=0.65) for _ in range(12)]
        gold_answers = [await world.outcome(job) for job in gold]
        answers = [await world.outcome(job) for job in others]
        assert {answer.answered_by for answer in gold_answers} == {("fake", 0.76)}
        assert {answer.answered_by for answer in answers} <= {("fake", 0.76), ("half", 0.7)}
        assert ("half", 0.7) in {answer.answered_by for answer in answers}
        assert world.counted() == {"in_time": 14}
        late = await world.outcome(world.submit(slo_s=1.0, floor=0.5))
        assert late.answered_by == ("fake", 0.76)  # no overload any more
        shown = world.metrics.render()[0].decode()
        assert 'sponge_answers_total{model="fake",variant="half"}' in shown

    run_virtual(scenario)


def test_a_variant_is_calibrated_by_its_own_batches() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, variants=VARIANTS)
        world.pool.lanes[0].slowness = 1.5
        for _ in range(5):
            await world.outcome(world.submit(slo_s=0.045, floor=0.5))  # the model alone takes 50 ms
        model, half, _ = world.scheduler.ratios
        assert model == 1.0
        assert half > 1.1

    run_virtual(scenario)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """By the profiles, the model takes 2 s a row, and its variant 6 ms."""
    directory = tmp_path_factory.mktemp("variants")
    fast = directory / "fast.yaml"
    fast.write_text(PROFILE % {"gamma": 5.0, "one": 6.0})
    server = ServerProcess(
        directory,
        *("--model", "digits=python://digits_shaped:factory", "--variant", "fast=python://digits_shaped:factory"),
        *("--profile", f"fast={fast}", "--accuracy", "digits=0.9", "--accuracy", "fast=0.8"),
        *("--slo-class", "gold=1000", "--slo-class", "bulk=1000", "--accuracy-floor", "bulk=0.75"),
        *("--slo-ms", "20000", "--cores", "1", "--step-cores", "1"),
        gamma_ms=2000.0,
    )
    yield server
    assert server.stop() == 0


def digit(**parameters: Any) -> dict[str, Any]:
    inputs = [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]
    return {"inputs": inputs} | ({"parameters": parameters} if parameters else {})


@pytest.mark.torch
def test_a_real_server_says_who_answered(server: ServerProcess) -> None:
    assert "serving digits at" in server.line or "serving digits" in server.line
    at_leisure = server.infer("digits", digit())
    assert (at_leisure.headers["x-sponge-variant"], at_leisure.headers["x-sponge-accuracy"]) == ("digits", "0.9")
    assert at_leisure.json["parameters"] == {"variant": "digits", "accuracy": 0.9}
    bulk = server.infer("digits", digit(), x_sponge_slo_class="bulk")
    assert bulk.json["parameters"] == {"variant": "fast", "accuracy": 0.8}
    assert server.infer("digits", digit(), x_sponge_slo_class="gold").status in (503, 504)  # the model is too slow
    own = server.infer("digits", digit(accuracy_floor=0.7), x_sponge_slo_class="gold")
    assert own.json["parameters"]["variant"] == "fast"
    assert server.infer("digits", digit(accuracy_floor="low")).status == 400
    assert server.infer("digits", digit(), x_sponge_accuracy_floor="7").status == 400
    assert server.get("/v2/models/fast").status == 404  # a variant is no model of its own
    assert server.ask("/control/v1/state").json["models"] == ["digits"]
    metrics = server.request(server.control + "/metrics").body.decode()
    assert 'sponge_answers_total{model="digits",variant="fast"} 2.0' in metrics
    assert 'sponge_batch_size_count{model="digits/fast"} 2.0' in metrics
