"""Host side: SIGINT and SIGTERM, which end a run: when they may come, and what they do.

For processes that have others, or are one of them; the command itself does with less (vmm/cli).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Generator, Iterator
    from types import FrameType
    from typing import Protocol, TypeVar

    Handler = Callable[[int, FrameType | None], object] | signal.Handlers
    Told = TypeVar("Told", covariant=True)

    class Batch(Protocol[Told]):
        """Work on many images."""

        def run(self) -> Iterator[Told]:
            """Do it, and tell of each image; interrupts come in where it lets them."""

        def finish(self) -> Iterator[Told]:
            """Let what was begun come to its end, and tell what is left to be told."""

        def stop(self) -> None:
            """End all processes."""

else:  # signal makes an enum of each number, which takes 5 ms, and of each signal in a mask
    import _signal as signal

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class HeldBack:
    """Inside of it interrupts wait, until its end."""

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


class LetIn:
    """Inside of it interrupts come in, as it costs nothing that has been heard."""

    def __enter__(self) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        except BaseException:  # there will be no end of the block, and a second one may be pending
            signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
            raise

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)


def carry_through(batch: Batch[Told]) -> Generator[Told, None, None]:
    """Yield all that is told. After an interrupt that is what was begun, and then it goes on."""
    with HeldBack():
        try:
            yield from batch.run()
        except KeyboardInterrupt:
            yield from batch.finish()
            raise
        finally:
            batch.stop()


def on_interrupt(handler: Handler) -> None:
    """Have both do the same, which may be signal.SIG_IGN or signal.SIG_DFL."""
    for number in INTERRUPTS:
        signal.signal(number, handler)


def begin_as_child(handler: Handler) -> None:
    """Answer interrupts so from here on, in a child that was forked while they were held back."""
    on_interrupt(handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
