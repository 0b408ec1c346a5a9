"""Options that a user gives by name, to one of several functions that have different ones."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any


def call_with_options(
    function: Callable[..., Any], name: str, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Calls a function with arguments of ours and options of the user's.

    Args:
        function: what to call.
        name: what to call it in messages.
        given: arguments that are not options.
        options: the user's.

    Raises:
        TypeError: an option that the function does not have, or lacks one that it needs; names all there are.
    """
    parameters = signature(function).parameters
    known = [option for option in parameters if option not in given]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}")
    absent = [o for o in known if parameters[o].default is parameters[o].empty and o not in options]
    if absent:
        raise TypeError(f"{name} needs the option {', '.join(absent)}")
    return function(**given, **options)
