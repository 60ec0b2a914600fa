"""The training objectives that are compared with each other, and what each needs beside its name."""

OBJECTIVES = {  # by name in the tables, with the settings that only this one has
    "standard": {},
    "at": {},
    "at_minus_st": {},
    "igr": {},
    "cure": {},
    "gradalign": {},
    "logitalign": {},
    "consistency": {"augment": True},
    "kdsa": {},
    "advlc": {},
    "trades": {},
    "mart": {},
    "at+awp": {"awp": 0.005},
}


def settings_of(name: str) -> dict:
    """Returns the settings of an entry of `OBJECTIVES`, the objective itself among them."""
    return {"objective": name.partition("+")[0], **OBJECTIVES[name]}
