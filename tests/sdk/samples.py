"""The samples of the published guide, run as they stand, and what devboxes and builds may look up then.

Every sentence of the guide about who gets which policy is looked at with DNS queries from the addresses of the devbox
and of the build. The one thing that the samples need is an alias: they say `network_policies`, and the SDK, in every
release, `network_policy`.
"""

import ast
import asyncio
import re
import sys
import threading
from importlib.metadata import version

from runloop_api_client import AsyncRunloopSDK

from harness import ADMIN, HERE, Checks, Hostgate, equal, expect

NAMES = ["github.com", "registry.npmjs.org", "a.b.npmjs.org", "npmjs.org", "pypi.org", "files.pypi.org",
         "api.openai.com", "openai.com", "evilgithub.com", "github.com.example", "example.com"]
BUILD = ["github.com", "registry.npmjs.org", "a.b.npmjs.org", "pypi.org"]
RUNTIME = ["github.com", "api.openai.com"]


def blocks():
    """Returns the code blocks of the guide."""
    text = (HERE / "network-policies.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


async def run(block, runloop):
    """Runs a block as it stands, with `runloop` as its only name; returns the names that it gave things."""
    names = {"runloop": runloop}
    code = compile(block, "network-policies.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, names)
    return names


def but(names):
    """Returns the other names."""
    return [name for name in NAMES if name not in names]


class Builder:
    """Attends to builds: looks up every name from the build's address, then lets it end."""

    def __init__(self, hostgate):
        self.hostgate, self.seen = hostgate, {}
        threading.Thread(target=self.attend, daemon=True).start()

    def attend(self):
        """Attends to one build after another."""
        while True:
            build = self.hostgate.builds.builds.get()
            before = len(self.hostgate.upstream.names)
            allowed = [name for name in NAMES if self.hostgate.rcode(name, build.address) == "ALLOWED"]
            leaked = set(self.hostgate.upstream.names[before:]) - set(allowed)
            self.seen[build.blueprint["name"]] = (build.address, allowed, leaked)
            build.end()

    def saw(self, name, allowed):
        """Fails unless this blueprint's build could look up exactly these names, and can no more; returns its address."""
        address, could, leaked = self.seen[name]
        equal(could, allowed, f"names that the build of {name} could look up")
        equal(leaked, set(), "names that went upstream though denied")
        self.hostgate.may(address, [], NAMES)
        return address


async def look(checks, hostgate, runloop):
    """Runs the samples one after another."""
    builder = Builder(hostgate)
    build_only, inherited, both = blocks()

    with checks.check("the sample of a build-time policy runs verbatim"):
        names = await run(build_only, runloop)
        info = await names["blueprint"].get_info()
        equal(info.status, "build_complete", "status")
    with checks.check("a build may look up what its policy allows, as long as it runs"):
        builder.saw("secure-build-blueprint", [name for name in NAMES if name in BUILD])
    with checks.check("the build-time policy does not affect devboxes: without one they are unrestricted"):
        devbox = await names["blueprint"].create_devbox()
        info = await devbox.get_info()
        expect(info.launch_parameters.network_policy_id is None, f"a policy: {info.launch_parameters}")
        hostgate.may(info.metadata["hostgate.address"], NAMES, [])

    with checks.check("the sample of a runtime policy runs verbatim"):
        names = await run(inherited, runloop)
    with checks.check("a devbox inherits the runtime policy of its blueprint"):
        info = await names["devbox"].get_info()
        equal(info.status, "running", "status")
        equal(info.blueprint_id, names["blueprint"].id, "blueprint_id")
        equal(info.launch_parameters.network_policy_id, names["runtime_policy"].id, "network_policy_id")
        equal(info.launch_parameters.launch_commands, ["npm install"], "launch_commands")
        hostgate.may(info.metadata["hostgate.address"], RUNTIME, but(RUNTIME))
    with checks.check("the runtime policy does not affect the build: without one it is unrestricted"):
        builder.saw("secure-agent-blueprint", NAMES)

    with checks.check("the sample of both policies runs verbatim, though it uses names again"):
        names = await run(both, runloop)
        policies = [await policy.get_info() for policy in await runloop.network_policies.list(name="-policy")]
        equal(sorted(policy.name for policy in policies), ["build-policy"] * 2 + ["runtime-policy"] * 2, "names")
    with checks.check("with both policies, the build has the one and the devbox the other"):
        build = builder.saw("dual-policy-blueprint", [name for name in NAMES if name in BUILD])
        info = await (await names["blueprint"].create_devbox()).get_info()
        expect(info.metadata["hostgate.address"] != build, "the devbox has the address of the build")
        hostgate.may(info.metadata["hostgate.address"], ["api.openai.com"], but(["api.openai.com"]))
    with checks.check("a devbox overrides the policy of its blueprint at its creation"):
        launch = {"network_policy_id": names["build_policy"].id}
        devbox = await names["blueprint"].create_devbox(launch_parameters=launch)
        info = await devbox.get_info()
        equal(info.launch_parameters.network_policy_id, names["build_policy"].id, "network_policy_id")
        hostgate.may(info.metadata["hostgate.address"], BUILD, but(BUILD))
        equal((await names["blueprint"].get_info()).parameters.launch_parameters.network_policy_id,
              names["runtime_policy"].id, "network_policy_id of the blueprint")


async def main():
    """Runs the samples against a hostgate of their own."""
    checks = Checks(f"samples, SDK {version('runloop_api_client')}")
    with checks.of(Hostgate(builder=True)) as hostgate:
        runloop = AsyncRunloopSDK(base_url=hostgate.url, bearer_token=ADMIN)
        runloop.network_policies = runloop.network_policy
        await look(checks, hostgate, runloop)
    return checks.passed


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
