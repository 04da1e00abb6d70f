"""The Functions host for a bundle: its worker's own folder on the path, and the bundle as the worker finds it.

Stands where the platform has its worker. What it needs of this repository (`buspass_azure.local_host`, which no bundle
carries) is imported first, by name; the function app then finds the bundle's packages and nothing else.

    python bundled_functions.py --repository DIR --app BUNDLE --port 0
"""

import argparse
import sys
from pathlib import Path

LENT = {"buspass.testing", "buspass.testing.loopback", "buspass_azure.local_host", "buspass_azure.local_proxy"}


def lend(repository):
    """Import the front out of the repository, everything below it out of the bundle."""
    import buspass  # noqa: PLC0415 - the bundle's, which is on the path by now
    import buspass_azure  # noqa: PLC0415

    for package, folder in ((buspass, "core/buspass"), (buspass_azure, "azure/buspass_azure")):
        package.__path__.append(str(repository / folder))
    from buspass_azure import local_host  # noqa: PLC0415

    for package in (buspass, buspass_azure):
        package.__path__.pop()
    return local_host


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(options.app / ".python_packages" / "lib" / "site-packages"))
    front = lend(options.repository)
    lent = {
        name
        for name, module in sys.modules.items()
        if (place := getattr(module, "__file__", None)) and Path(place).is_relative_to(options.repository)
    }
    assert lent - {"__main__", "__mp_main__"} == LENT, lent
    sys.exit(front.main(["--app", str(options.app), "--port", str(options.port)]))


if __name__ == "__main__":
    main()
