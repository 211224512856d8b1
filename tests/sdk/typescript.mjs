// Runloop's TypeScript SDK against hostgate: over HTTP/2 without TLS, as it does unless told otherwise, and over HTTP/1.1.
//
//     harness.py node typescript.mjs      in the folder where the SDK is installed
import assert from "node:assert/strict";
import { Resolver } from "node:dns/promises";
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/package.json`);
const { RunloopSDK } = require("@runloop/api-client");
const version = require("./package.json").dependencies["@runloop/api-client"];

// Against a server that it does not understand, the SDK tries again and again.
setTimeout(() => {
  console.log("FAIL typescript: not done after 30 s");
  process.exit(1);
}, 30_000).unref();

/** Returns what a lookup from this address came to: the addresses, or the code of its failure. */
async function lookUp(name, source) {
  const resolver = new Resolver({ timeout: 5000, tries: 1 });
  resolver.setServers([process.env.HOSTGATE_DNS]);
  resolver.setLocalAddress(source);
  return resolver.resolve4(name).catch((error) => error.code);
}

for (const [protocol, options] of [["HTTP/2", {}], ["HTTP/1.1", { http2: false }]]) {
  const check = async (rule, body) => {
    const begin = performance.now();
    try {
      await body();
    } catch (error) {
      console.log(`FAIL typescript, SDK ${version}, ${protocol}: ${rule}: ${error}`);
      process.exit(1);
    }
    console.log(`ok   typescript, SDK ${version}, ${protocol}: ${rule} (${(performance.now() - begin).toFixed(0)} ms)`);
  };
  const bearerToken = process.env.HOSTGATE_TOKEN;
  const runloop = new RunloopSDK({ baseURL: process.env.HOSTGATE_URL, bearerToken, maxRetries: 0, ...options });
  let policy, blueprint, devbox, address;

  await check("a policy is created, listed, shown and changed", async () => {
    policy = await runloop.networkPolicy.create({ name: "typescript", allowed_hostnames: ["a.example"] });
    const listed = await runloop.networkPolicy.list({ name: "typescript" });
    assert.deepEqual(listed.map((one) => one.id), [policy.id]);
    const info = await policy.update({ allowed_hostnames: ["a.example", "*.b.example"] });
    assert.deepEqual(info.egress.allowed_hostnames, ["a.example", "*.b.example"]);
    assert.deepEqual(await policy.getInfo(), info);
  });
  await check("a devbox inherits its blueprint's policy", async () => {
    blueprint = await runloop.blueprint.create({
      name: "typescript",
      launch_parameters: { network_policy_id: policy.id },
    });
    devbox = await blueprint.createDevbox({ name: "typescript" });
    const info = await devbox.getInfo();
    assert.equal(info.status, "running");
    assert.equal(info.launch_parameters.network_policy_id, policy.id);
    address = info.metadata["hostgate.address"];
    assert.deepEqual(await lookUp("x.b.example", address), ["93.184.215.14"]);
    assert.equal(await lookUp("b.example", address), "ENOTFOUND");
  });
  await check("a policy in use is not deleted, and the error says by whom", async () => {
    await assert.rejects(policy.delete(), (error) => error.status === 400 && error.message.includes(blueprint.id));
  });
  await check("shut down, its address is denied; then all is deleted", async () => {
    assert.equal((await devbox.shutdown()).status, "shutdown");
    assert.equal(await lookUp("x.b.example", address), "ENOTFOUND");
    await blueprint.delete();
    assert.equal((await policy.delete()).id, policy.id);
    await assert.rejects(policy.getInfo(), (error) => error.status === 404);
  });
}
process.exit(0);
