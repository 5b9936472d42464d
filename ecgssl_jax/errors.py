"""Errors that are messages to the user, and programs that end with one."""

import contextlib
import signal
import sys
from collections.abc import Iterator


class UserError(Exception):
    """What a user can mend; the message says what was found, and what to change.

    Programs print it without a traceback. Whatever else they raise is a mistake of
    ours, of which the traceback shows where.
    """


@contextlib.contextmanager
def exit_with_message(name: str) -> Iterator[None]:
    """Ends the program with the line 'NAME: MESSAGE' and code 1 at a user's error.

    So with OSError: files that are missing, folders that must not be written. Ctrl-C ends
    it with the code 130.
    """
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
