"""What Ray is told by its internals, because it has no setting: they must still be where we reach for them."""

import inspect

import pytest
import ray._private.node
import ray._private.services

from actors import handles


def test_a_node_that_is_slow_to_appear_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get_node(address: str, node_id: str) -> dict[str, str]:
        asked.append(address)
        if len(asked) < 3:
            raise RuntimeError("no such node, or not yet")
        return {"node_id": node_id}

    monkeypatch.setattr(ray._private.services, "get_node", get_node)
    handles.wait_for_slow_machines()

    found = ray._private.services.get_node("here", "7")  # type: ignore[no-untyped-call]
    assert found == {"node_id": "7"}
    assert asked == ["here"] * 3


def test_ray_still_asks_there_and_gives_up_too_soon() -> None:
    source = inspect.getsource(ray._private.node.Node.__init__)

    assert "ray._private.services.get_node(" in source
    assert "except RuntimeError" in source
    assert "raylet_start_wait_time_s = 30\n" in source
