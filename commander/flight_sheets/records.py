"""Flight sheets and programs as they are kept: templates, before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass, field

from garrison.model import Sheet


@dataclass(frozen=True, slots=True)
class PoolTemplate:
    """`user`: template of the pool user; empty: the sheet's. `password` None (only when it comes in): as before, or x."""

    url: str
    password: str | None = field(default=None, repr=False)
    user: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """What a person writes. `worker`, `user` and `arguments` may hold placeholders. `program` empty: for ASICs, pools only."""

    name: str
    coin: str
    algorithm: str
    pools: tuple[PoolTemplate, ...]
    wallet: str
    worker: str = "{device}"
    user: str = "{wallet}.{worker}"
    program: str = ""
    version: str = ""
    arguments: tuple[str, ...] = ()
    verify_within_s: int = 300


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A sheet at one revision. `running_id` is what devices call it: a change of it is another sheet to them."""

    id: int
    revision: int
    template: Template
    created_ms: int
    changed_ms: int
    changed_by: str

    @property
    def running_id(self) -> str:
        return f"{self.id}.{self.revision}"


@dataclass(frozen=True, slots=True)
class ProgramRow:
    """A mining program, pinned. `location`: an absolute path on the rigs or an https address."""

    name: str
    version: str
    location: str
    sha256: str
    executable: str = ""
    simulated: bool = False
    added_ms: int = 0
    added_by: str = ""


@dataclass(frozen=True, slots=True)
class Application:
    """A sheet given to a device by an order. The newest that was not withdrawn is what the device should run."""

    action_id: str
    device_id: int
    sheet_id: int
    revision: int
    at_ms: int
    rendered: Sheet

    @property
    def running_id(self) -> str:
        return f"{self.sheet_id}.{self.revision}"
