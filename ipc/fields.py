"""The types of messages' fields: what each may hold, checked where a message comes in."""

from typing import Annotated, Literal

import msgspec

MAX_PIDS = 4096

Uint64 = Annotated[int, msgspec.Meta(ge=0)]  # msgpack itself ends at 2**64 - 1
Pid = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}\Z"
_NAME = "1 to 128 letters, digits and _.:+-, the first one no sign but _"
NAME_RULE = f"a model's name has {_NAME}"
ModelName = Annotated[
    str, msgspec.Meta(pattern=NAME_PATTERN, description=f"a model's name: {_NAME}")
]
VersionNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Engine = Literal["", "prepacked", "plain", "reference"]  # '': what suits the model
AUTOMATIC: tuple[Engine, ...] = ("prepacked", "plain")  # what '' stands for: the first that suits
NameRules = Annotated[  # how names of a file become the model's: weights/names.py
    tuple[
        Annotated[
            str,
            msgspec.Meta(
                max_length=2100,
                pattern=r"^[^\x00-\x1f]*\Z",
                description="a rule like OLD=NEW, of at most 2100 characters that can be seen",
            ),
        ],
        ...,
    ],
    msgspec.Meta(max_length=256),
]
RuleText = Annotated[  # daemon/policy.py; names of users and groups are numbers by now
    str,
    msgspec.Meta(
        pattern=r"^((uid|gid):[0-9]{1,10}|unit:[A-Za-z0-9:_.\\@-][A-Za-z0-9:_.\\@*-]{0,254})\Z",
        description="a rule like uid:1000, gid:100 or unit:app.service",
    ),
]
RuleTexts = Annotated[tuple[RuleText, ...], msgspec.Meta(max_length=256)]
Pids = Annotated[tuple[Pid, ...], msgspec.Meta(max_length=MAX_PIDS)]
