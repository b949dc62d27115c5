"""What every part of the schema is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Unknown keys and loose types are errors; a checked configuration never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
