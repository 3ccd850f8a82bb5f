// Logs in, activates a second factor, confirms, logs in again, verifies and recovers with the official library.
//
// Owns what the library `pryv` makes of our answers. `client.rs` starts the server and this script, and passes as JSON in the only
// argument where Node's packages and the server are, who logs in, and where the code can be read. It ends with 0, or says what is wrong.
// The library has no call for activate, confirm and recover: for these the script asks as the official web applications do.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const { modules, serviceInfo, base, username, password, app, origin, data, code, generation, alone } = JSON.parse(process.argv[2]);
const pryv = createRequire(join(modules, "/"))("pryv");

async function post(method, token, body, headers = {}) {
  const authorization = token ? { authorization: token } : {};
  const all = { "content-type": "application/json", ...authorization, ...headers };
  const answer = await fetch(`${base}${method}`, { method: "POST", headers: all, body: JSON.stringify(body) });
  return { status: answer.status, body: await answer.json() };
}

/** The code that was sent last. */
const lastCode = async () => (await fetch(code)).json();

/** What a promise is rejected with. */
async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return assert.fail("it was not refused");
}

/** The token of a log-in that needs a second step, as the library hands it out. */
async function halfIn(service) {
  const error = await rejection(service.login(username, password, app));
  assert.ok(error instanceof pryv.PryvError, String(error));
  if (generation === "v1") {
    // The library knows the second generation only; of the first it keeps the body.
    assert.ok(!(error instanceof pryv.MfaRequiredError));
    assert.equal(error.status, 302);
    return error.response.body.mfaToken;
  }
  assert.ok(error instanceof pryv.MfaRequiredError, String(error));
  assert.equal(error.status, 200);
  return error.mfaToken;
}

async function isIn(connection) {
  const info = await connection.accessInfo();
  assert.equal(info.error, undefined, JSON.stringify(info));
  assert.equal(info.type, "personal");
  assert.equal(info.token, connection.token);
  assert.equal(await connection.username(), username);
}

const service = new pryv.Service(serviceInfo);
const info = await service.info();
assert.ok(info.name && info.register && info.access);
assert.equal(await service.apiEndpointFor(username), base);

const refused = await rejection(service.login(username, "wrong", app));
assert.deepEqual([refused.status, refused.id], [401, "invalid-credentials"]);
const connection = await service.login(username, password, app);
await isIn(connection);
if (alone) {
  assert.equal(await service.userExists(username), true);
  assert.equal(await service.userExists("nobody"), false);
}

// A 302 that leads nowhere is delivered with its body.
const activated = await post("mfa/activate", connection.token, data);
assert.equal(activated.status, 302, JSON.stringify(activated));
const confirmed = await post("mfa/confirm", activated.body.mfaToken, { code: await lastCode() });
assert.equal(confirmed.status, 200, JSON.stringify(confirmed));
assert.equal(confirmed.body.recoveryCodes.length, 10);

const mfaToken = await halfIn(service);
assert.match(mfaToken, /^[0-9a-f-]{36}$/);
await service.mfaChallenge(username, mfaToken);
const wrong = await rejection(service.mfaVerify(username, mfaToken, "none"));
assert.equal(wrong.status, 400);
assert.equal(wrong.id, generation === "v1" ? "invalid-code" : "invalid-parameters-format");
await isIn(await service.mfaVerify(username, mfaToken, await lastCode()));
const over = await rejection(service.mfaVerify(username, mfaToken, await lastCode()));
assert.equal(over.status, generation === "v1" ? 403 : 401);
assert.equal((await rejection(service.mfaChallenge(username, "nonsense"))).status, generation === "v1" ? 403 : 401);
await isIn(connection);

const recoveryCode = confirmed.body.recoveryCodes[0];
const recovered = await post("mfa/recover", null, { username, password, appId: app, recoveryCode }, { origin });
assert.equal(recovered.status, 200, JSON.stringify(recovered));
await isIn(await service.login(username, password, app));
