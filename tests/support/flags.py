"""What the library is compiled with, for tests that compile it or against its insides themselves."""

import re
import shlex

from support.source_tree import ROOT


def flags(name):
    """The words that flags.mk gives `name`."""
    [words] = re.findall(rf"^{name} := (.*)$", (ROOT / "flags.mk").read_text(), flags=re.MULTILINE)
    return shlex.split(words)


WARNINGS = [*flags("WARNINGS"), "-Werror"]
CORE = [*flags("CORE_FLAGS"), *WARNINGS]
INCLUDES = [f"-I{ROOT / flag.removeprefix('-I')}" for flag in flags("INCLUDES")]
FRAMEWORKS = flags("METAL_FRAMEWORKS")
