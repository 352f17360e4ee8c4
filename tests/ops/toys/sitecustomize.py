"""Adds the toy stages and components to the packages, in pytest and in the steps that it starts.

The runner, runtime and command line under test are the real ones: for them the toys are stages
like all others.
"""

from pathlib import Path

import components
import vila_core.stages

HERE = Path(__file__).parent
for package, folder in ((vila_core.stages, "stages"), (components, "components")):
    if str(HERE / folder) not in package.__path__:
        package.__path__.append(str(HERE / folder))
