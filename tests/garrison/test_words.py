"""Numbers on the wire and on disk are those of the protos, and for ever."""

from garrison import words
from garrison.v1 import post_pb2
from garrison.words import ActionKind, ActionState, DeviceState, PowerState


def test_action_states_are_the_protos() -> None:
    """Same words, same numbers, none missing on either side."""
    proto = {name.removeprefix("ACTION_STATE_"): n for name, n in post_pb2.ActionState.items() if n}
    assert {state.name: int(state) for state in ActionState} == proto
    assert [s.word for s in ActionState if s.final] == ["succeeded", "failed", "refused", "expired", "cancelled", "unknown"]


def test_device_states_have_numbers_for_ever() -> None:
    """Written out here a second time: whoever renumbers one must change this test too, and think of old histories."""
    assert {state.value: code for state, code in words.DEVICE_STATE_CODES.items()} == {
        "unknown": 0, "mining": 1, "degraded": 2, "idle": 3, "paused": 4, "starting": 5,
        "refused": 6, "slow": 7, "unreachable": 8, "off": 9, "maintenance": 10,
    }  # fmt: skip
    assert set(words.DEVICE_STATE_CODES) == set(DeviceState)
    assert {words.DEVICE_STATES[code] for code in words.DEVICE_STATE_CODES.values()} == set(DeviceState)


def test_power_states_have_numbers_for_ever() -> None:
    """The same for outlets: unknown is never read as off."""
    assert words.POWER_STATE_CODES == {PowerState.UNKNOWN: 0, PowerState.OFF: 1, PowerState.ON: 2, PowerState.CHANGING: 3}


def test_kinds_of_orders() -> None:
    """Each word is its own name in small letters; pulses and power actions are kinds."""
    assert all(kind.value == kind.name.lower() for kind in ActionKind)
    assert set(ActionKind) > words.POWER_ACTIONS
    assert set(ActionKind) > words.PULSES
