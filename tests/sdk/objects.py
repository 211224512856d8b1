"""What policies, blueprints and devboxes do in their lives, through Runloop's SDK: changes, ends, lists, restarts."""

import asyncio
import sys
import threading
from importlib.metadata import version

import runloop_api_client
from runloop_api_client import AsyncRunloopSDK

from harness import ADMIN, Checks, Hostgate, equal, expect, until


async def address_of(devbox):
    """Returns the address of a devbox."""
    return (await devbox.get_info()).metadata["hostgate.address"]


async def fails(call, kind, *parts):
    """Fails unless the call is refused with this kind of error, whose message holds these parts."""
    try:
        await call
    except kind as error:
        for part in parts:
            expect(part in error.body["message"], f"{part!r} is not in {error.body['message']!r}")
        return
    raise AssertionError(f"no {kind.__name__}")


async def updates(checks, hostgate, runloop):
    """A policy that is changed while a devbox runs under it."""
    policy = await runloop.network_policy.create(name="changing", allowed_hostnames=["a.example"])
    devbox = await runloop.devbox.create(launch_parameters={"network_policy_id": policy.id})
    address = await address_of(devbox)
    with checks.check("the query after an update returned sees it, sixty times in a row"):
        for number in range(30):
            await policy.update(allowed_hostnames=[f"n{number}.example"])
            hostgate.may(address, [f"n{number}.example"], [f"n{number - 1}.example"])
            await policy.update(allowed_hostnames=[])
            hostgate.may(address, [], [f"n{number}.example"])
    with checks.check("an update keeps what is null or absent, and replaces what is given"):
        await policy.update(description="first", allowed_hostnames=["a.example", "b.example"])
        before = await policy.get_info()
        info = await policy.update(name="renamed", description=None)
        equal((info.name, info.description), ("renamed", "first"), "name and description")
        equal(info.egress.allowed_hostnames, ["a.example", "b.example"], "allowed_hostnames")
        equal(info.create_time_ms, before.create_time_ms, "create_time_ms")
        expect(info.update_time_ms >= before.update_time_ms, "update_time_ms went back")
        info = await policy.update(allowed_hostnames=["c.example"])
        equal(info.egress.allowed_hostnames, ["c.example"], "allowed_hostnames")
    with checks.check("allow_all allows every name, and devboxes each other"):
        info = await policy.update(allow_all=True)
        expect(info.egress.allow_all and info.egress.allow_devbox_to_devbox, f"{info.egress}")
        hostgate.may(address, ["anything.example"], [])
        await policy.update(allow_all=False, allowed_hostnames=[])
        hostgate.may(address, [], ["anything.example"])
    with checks.check("a hostname that no policy may have is refused, and the old policy stays"):
        await policy.update(allowed_hostnames=["kept.example"])
        await fails(policy.update(allowed_hostnames=["*.com"]), runloop_api_client.BadRequestError, "*.com")
        hostgate.may(address, ["kept.example"], ["other.com"])
    await devbox.shutdown()
    await policy.delete()


async def ends(checks, hostgate, runloop):
    """What is deleted and shut down."""
    bad, missing = runloop_api_client.BadRequestError, runloop_api_client.NotFoundError
    policy = await runloop.network_policy.create(name="used", allowed_hostnames=["a.example"])
    blueprint = await runloop.blueprint.create(name="user", launch_parameters={"network_policy_id": policy.id})
    devbox = await blueprint.create_devbox()
    own = await runloop.devbox.create(launch_parameters={"network_policy_id": policy.id})
    with checks.check("a policy in use is not deleted, and the error names its users"):
        await fails(policy.delete(), bad, own.id, blueprint.id)
    with checks.check("a blueprint with a running devbox is not deleted, and the error names the devbox"):
        await fails(blueprint.delete(), bad, devbox.id)
        hostgate.may(await address_of(devbox), ["a.example"], [])
    with checks.check("a devbox is made from the newest blueprint of a name"):
        async with await runloop.devbox.create_from_blueprint_name("user") as named:
            equal((await named.get_info()).blueprint_id, blueprint.id, "blueprint_id")
            hostgate.may(await address_of(named), ["a.example"], ["b.example"])
    with checks.check("the address of a devbox that was shut down is bound to nothing, and denied"):
        for box in (devbox, own):
            address = await address_of(box)
            hostgate.may(address, ["a.example"], [])
            equal((await box.shutdown()).status, "shutdown", "status")
            hostgate.may(address, [], ["a.example"])
            equal((await box.get_info()).status, "shutdown", "status later")
    with checks.check("what nothing uses any more is deleted"):
        await blueprint.delete()
        equal((await policy.delete()).id, policy.id, "id")
        await fails(policy.get_info(), missing)
    with checks.check("a devbox is shut down at the end of its `async with`"):
        async with await runloop.devbox.create(name="short") as short:
            address = await address_of(short)
            hostgate.may(address, ["a.example"], [])
        equal((await short.get_info()).status, "shutdown", "status")
        hostgate.may(address, [], ["a.example"])
    with checks.check("an id that does not exist is refused at creation"):
        unknown = {"network_policy_id": "npol_0"}
        await fails(runloop.devbox.create(launch_parameters=unknown), bad, "npol_0")
        await fails(runloop.devbox.create(blueprint_id="bpt_0"), bad, "bpt_0")
        await fails(runloop.blueprint.create(name="x", network_policy_id="npol_0"), bad, "npol_0")
        await fails(runloop.blueprint.create(name="x", launch_parameters=unknown), bad, "npol_0")


async def builds(checks, hostgate, runloop):
    """Builds that fail, and what they say."""
    with checks.check("a build that the builder gives up is failed, and its lines are in its logs"):
        threading.Thread(target=lambda: hostgate.builds.next().end(1), daemon=True).start()
        try:
            await runloop.blueprint.create(name="broken")
            raise AssertionError("the SDK takes the build for complete")
        except runloop_api_client.RunloopError as error:
            expect("failed" in str(error), str(error))
        page = await runloop.api.blueprints.list(name="broken")
        equal([blueprint.status for blueprint in page.blueprints], ["failed"], "status")
        logs = await runloop.api.blueprints.logs(page.blueprints[0].id)
        expect(any("building broken" in line.message for line in logs.logs), f"{logs.logs}")
        await fails(runloop.devbox.create(blueprint_id=page.blueprints[0].id), runloop_api_client.BadRequestError)
    policy = await runloop.network_policy.create(name="of builds", allowed_hostnames=["first.example"])
    with checks.check("an update reaches a build that is under way"):
        blueprint = await runloop.api.blueprints.create(name="long", network_policy_id=policy.id)
        build = hostgate.builds.next()
        equal(build.blueprint["id"], blueprint.id, "id")
        hostgate.may(build.address, ["first.example"], ["second.example"])
        await policy.update(allowed_hostnames=["second.example"])
        hostgate.may(build.address, ["second.example"], ["first.example"])
        await fails(policy.delete(), runloop_api_client.BadRequestError, blueprint.id)
    with checks.check("a build that hostgate's end cut off has failed, and its address is bound to nothing"):
        hostgate.end()
        hostgate.start()
        # Written down by the next start, right after it serves.
        path = f"/v1/blueprints/{blueprint.id}"
        until("the build has failed", lambda: hostgate.call("GET", path)[1]["status"] == "failed")
        hostgate.may(build.address, [], ["first.example", "second.example"])


async def lists(checks, hostgate, runloop):
    """Pages and filters."""
    made = [await runloop.network_policy.create(name=f"page-{number % 2}") for number in range(5)]
    ids = [policy.id for policy in made]
    with checks.check("names may repeat; ids sort by time of creation"):
        equal(sorted(ids), ids, "ids")
    with checks.check("pages follow one another, each policy once"):
        found = [policy async for policy in runloop.api.network_policies.list(limit=2, extra_query={"search": "page-"})]
        equal(sorted(policy.id for policy in found), ids, "ids")
        first = await runloop.api.network_policies.list(limit=2, name="page-")
        equal((len(first.network_policies), first.has_more, first.total_count), (2, True, 5), "first page")
    with checks.check("name and search pick policies"):
        page = await runloop.api.network_policies.list(name="page-1")
        equal({policy.name for policy in page.network_policies}, {"page-1"}, "names")
        page = await runloop.api.network_policies.list(extra_query={"search": ids[3]})
        equal([policy.id for policy in page.network_policies], [ids[3]], "ids")
    with checks.check("devboxes are listed by status"):
        async with await runloop.devbox.create(name="listed") as devbox:
            running = [box.id async for box in runloop.api.devboxes.list(status="running", limit=1)]
            expect(devbox.id in running, f"{devbox.id} is not in {running}")
        ended = [box.id async for box in runloop.api.devboxes.list(status="shutdown", limit=1)]
        expect(devbox.id in ended, f"{devbox.id} is not in {ended}")
    with checks.check("what is listed may be deleted meanwhile"):
        deleted = []
        async for policy in runloop.api.network_policies.list(limit=2, extra_query={"search": "page-"}):
            deleted.append((await runloop.api.network_policies.delete(policy.id)).id)
        equal(sorted(deleted), ids, "ids")


async def fields(checks, hostgate, runloop):
    """What hostgate keeps though it does not act on it."""
    future = {"future_field": {"list": [1, 2.5, "x", True], "empty": {}}}
    with checks.check("fields that are not known are kept and given back"):
        policy = await runloop.network_policy.create(name="future", extra_body=future)
        equal((await policy.get_info()).model_extra.get("future_field"), future["future_field"], "of a policy")
        blueprint = await runloop.api.blueprints.create(
            name="future", dockerfile="FROM scratch\n# \"quoted\" 'text' \\ \t end", extra_body=future)
        info = await runloop.api.blueprints.retrieve(blueprint.id)
        equal(info.parameters.dockerfile, "FROM scratch\n# \"quoted\" 'text' \\ \t end", "dockerfile")
        equal(info.parameters.model_extra.get("future_field"), future["future_field"], "of a blueprint")
        devbox = await runloop.devbox.create(
            metadata={"team": "a \"b\" \u00fc"}, launch_parameters={"resource_size_request": "SMALL", **future})
        info = await devbox.get_info()
        equal(info.metadata["team"], "a \"b\" \u00fc", "metadata")
        equal(info.launch_parameters.resource_size_request, "SMALL", "resource_size_request")
        equal(info.launch_parameters.model_extra.get("future_field"), future["future_field"], "of a devbox")
        await devbox.shutdown()
    with checks.check("CIDR rules, gateways and mirrors are kept and shown"):
        if tuple(map(int, version("runloop_api_client").split("."))) >= (1, 24):
            info = await policy.update(
                allowed_cidrs=[{"cidr": "10.12.0.0/16", "ports": [{"port": 443, "end_port": 444, "protocol": "TCP"}]}],
                allow_agent_gateway=True, allow_mcp_gateway=True, allow_runloop_mirrors=True)
            egress = info.egress
            expect(egress.allow_agent_gateway and egress.allow_mcp_gateway and egress.allow_runloop_mirrors, f"{egress}")
            rule = egress.allowed_cidrs[0]
            equal((rule.cidr, rule.ports[0].port, rule.ports[0].end_port, rule.ports[0].protocol),
                  ("10.12.0.0/16", 443, 444, "TCP"), "allowed_cidrs")
        info = await policy.get_info()
        expect({"allow_all", "allow_devbox_to_devbox", "allow_agent_gateway", "allow_mcp_gateway",
                "allow_runloop_mirrors", "allowed_hostnames", "allowed_cidrs"} <= info.egress.model_dump().keys(),
               f"{info.egress}")
    with checks.check("a devbox has the address that its metadata names, and no other has it"):
        mine = {"hostgate.address": "127.87.0.1"}
        async with await runloop.devbox.create(metadata=mine) as devbox:
            equal(await address_of(devbox), "127.87.0.1", "address")
            hostgate.may("127.87.0.1", ["a.example"], [])
            await fails(runloop.devbox.create(metadata=mine), runloop_api_client.BadRequestError, devbox.id)
        again = await runloop.devbox.create(metadata=mine)
        hostgate.may("127.87.0.1", ["a.example"], [])
        await again.shutdown()


async def devboxes(checks, hostgate, runloop):
    """Devboxes that ask for each other."""
    with checks.check("a devbox is found by its name where the asker's policy lets devboxes find each other"):
        open_policy = await runloop.network_policy.create(name="open", allow_devbox_to_devbox=True)
        closed = await runloop.network_policy.create(name="closed", allowed_hostnames=["*.devbox.internal"])
        first = await runloop.devbox.create(launch_parameters={"network_policy_id": open_policy.id})
        second = await runloop.devbox.create(launch_parameters={"network_policy_id": closed.id})
        name = f"{second.id}.devbox.internal"
        response = hostgate.ask(name, await address_of(first))
        equal([data.to_text() for rrset in response.answer for data in rrset], [await address_of(second)], name)
        equal(hostgate.rcode(f"{first.id}.devbox.internal", await address_of(second)), "NXDOMAIN", "the other way")
        await closed.update(allow_devbox_to_devbox=True)
        response = hostgate.ask(f"{first.id}.devbox.internal", await address_of(second))
        equal([data.to_text() for rrset in response.answer for data in rrset], [await address_of(first)], "after update")
        await second.shutdown()
        equal(hostgate.rcode(name, await address_of(first)), "NXDOMAIN", "the one that was shut down")
        await first.shutdown()


async def main():
    """Runs everything against one hostgate."""
    checks = Checks(f"objects, SDK {version('runloop_api_client')}")
    with checks.of(Hostgate()) as hostgate:
        runloop = AsyncRunloopSDK(base_url=hostgate.url, bearer_token=ADMIN, max_retries=0)
        for part in (updates, ends, lists, fields, devboxes):
            await part(checks, hostgate, runloop)
    with checks.of(Hostgate(builder=True)) as hostgate:
        runloop = AsyncRunloopSDK(base_url=hostgate.url, bearer_token=ADMIN, max_retries=0)
        await builds(checks, hostgate, runloop)
    return checks.passed


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
