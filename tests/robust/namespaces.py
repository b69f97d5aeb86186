"""Linux namespaces, so that a test can fill a disk or cut the network without harm to the machine."""

import subprocess

ROOT_OR_USER = ((), ("--user", "--map-root-user"))
"""As root, or as a user whom the kernel lets be root of a namespace."""


class NoNamespace(OSError):
    """This machine lets nobody make such a namespace; the message is the kernel's."""


def namespace(kind: str) -> tuple[subprocess.Popen[str], tuple[str, ...]]:
    """A new ``mount`` or ``net`` namespace: the process that holds it open, and what puts a command into it.

    Raises:
        NoNamespace: if neither root nor a user namespace can make one.
    """
    for user in ROOT_OR_USER:
        holder = subprocess.Popen(
            ["unshare", f"--{kind}", *user, "sh", "-c", "echo here; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout
        if holder.stdout.readline() == "here\n":
            others = ("--user", "--preserve-credentials") if user else ()
            return holder, ("nsenter", f"--target={holder.pid}", f"--{kind}", *others)
        said = holder.communicate()[1]
    raise NoNamespace(said.strip())
