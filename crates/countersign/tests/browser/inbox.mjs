// Looks at the inbox page as people do: in a browser, while codes arrive.
//
// Owns what a browser can see of the page. `tests/it/pages.rs` starts the server and this script, and passes as JSON in the
// only argument: where Node's packages and the browser are, the line that `countersign dev --json` printed,
// and a folder for pictures, when some are wanted. It ends with 0, or says what is wrong.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const { modules, browser: executablePath, ready, pictures } = JSON.parse(process.argv[2]);
const require = createRequire(join(modules, "/"));
const { chromium } = require("playwright-core");
const axe = await readFile(require.resolve("axe-core/axe.min.js"), "utf8");

const PATIENCE_MS = 15_000;
const DESKTOP = { width: 1200, height: 800 };
const PHONE = { width: 360, height: 740 };
/** A page of this width must not need to be scrolled sideways (WCAG 2.2, 1.4.10). */
const NARROW = { width: 320, height: 640 };
const LOOKS = [
  { name: "desktop", viewport: DESKTOP },
  { name: "phone", viewport: PHONE },
  { name: "narrow", viewport: NARROW },
  { name: "dark", viewport: DESKTOP, colorScheme: "dark" },
  { name: "dark phone", viewport: PHONE, colorScheme: "dark" },
];

const CALLS = ready.token_url.replace("/get/token", "/deviceAuthentications");

async function post(url, headers, body) {
  const answer = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(PATIENCE_MS) });
  assert.ok(answer.ok, `${new URL(url).pathname} says ${answer.status}`);
  return answer.json();
}

/** Requests a code, as an application does. */
async function request(ask) {
  const { client_id, client_secret } = ready;
  const form = new URLSearchParams({ grant_type: "client_credentials", client_id, client_secret });
  const { access_token } = await post(ready.token_url, {}, form);
  const headers = { authorization: `Bearer ${access_token}`, "content-type": "application/json" };
  await post(CALLS, headers, JSON.stringify(ask));
}

/** The newest message, as machines read it. */
async function newest() {
  const answer = await fetch(ready.inbox_url, { headers: { accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS) });
  return (await answer.json())[0];
}

const codeIn = (message) => message.text.match(/\d{6}/)[0];

/** Opens the page in a browser of its own look, and notes everything that the browser complains about. */
async function open(browser, look) {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "UTC", ...look });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const complaints = [];
  const note = (what) => complaints.push(what);
  page.on("console", (it) => ["error", "warning"].includes(it.type()) && note(`console: ${it.text()}`));
  page.on("pageerror", (it) => note(`error: ${it.message}`));
  page.on("response", (it) => it.status() >= 400 && note(`${it.status()}: ${it.url()}`));
  page.on("request", (it) => new URL(it.url()).origin === ready.base_url || note(`a request to elsewhere: ${it.url()}`));
  await page.exposeFunction("noteViolation", (it) => note(`Content-Security-Policy: ${it}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (it) => window.noteViolation(`${it.violatedDirective} ${it.blockedURI}`));
  });
  await page.goto(ready.inbox_url);
  const script = look.javaScriptEnabled !== false;
  if (script) await page.getByText("Live", { exact: true }).waitFor();
  return { page, complaints, close: () => context.close() };
}

/** Nothing that a person with another eye, ear or hand would miss, as far as a machine can tell. */
async function accessible(page, where) {
  await page.evaluate(axe);
  // What is in the frame of an e-mail is the tenant's own template, and no script may look into it.
  const found = await page.evaluate(() => window.axe.run(document, {
    iframes: false,
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
  }));
  const violations = found.violations.map((it) => `${it.id}: ${it.help}: ${it.nodes.map((node) => node.html).join(" ")}`);
  assert.deepEqual(violations, [], where);
  assert.ok(found.passes.length > 5, `${where}: axe looked at next to nothing`);
}

async function fits(page, where) {
  const [needed, there] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(needed <= there, `${where}: the page is ${needed} wide, and the window ${there}`);
}

/** The page as it is now, in every look. */
async function everyLook(browser, what, then = async () => {}) {
  for (const { name, ...look } of LOOKS) {
    const where = `${what}, ${name}`;
    const { page, complaints, close } = await open(browser, look);
    await then(page);
    await fits(page, where);
    assert.deepEqual(complaints, [], where);
    await accessible(page, where);
    await close();
  }
}

async function picture(browser, name, look) {
  if (!pictures) return;
  const { page, close } = await open(browser, look);
  await mkdir(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, name) });
  await close();
}

async function openLetter(page) {
  await page.getByText("Show as its reader sees it").first().click();
  return page.frameLocator("iframe").first();
}

async function look(browser) {
  await everyLook(browser, "an empty inbox");

  const { page, complaints, close } = await open(browser, { viewport: DESKTOP, permissions: ["clipboard-read", "clipboard-write"] });
  const letters = page.locator("article");
  assert.equal(await letters.count(), 0);
  await page.getByRole("heading", { name: "Nothing has come yet" }).waitFor();

  // It arrives by itself, is announced, and its code can be taken along.
  await request({ userName: "jdoe", deviceType: "sms", phoneNumber: "+1 202 555 0123" });
  await letters.nth(0).waitFor();
  const text = await newest();
  assert.equal(await letters.count(), 1);
  assert.equal(await letters.nth(0).getAttribute("id"), text.id);
  assert.equal((await letters.nth(0).locator(".code span:not(.unseen)").allTextContents()).join(""), codeIn(text));
  assert.match(await letters.nth(0).getByRole("heading").textContent(), /Text message to \+12025550123/);
  assert.match(await page.getByRole("status").textContent(), /Text message to \+12025550123/);
  await page.getByRole("button", { name: "Copy the code" }).click();
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), codeIn(text));

  // The next stands above it.
  await request({ userName: "jdoe", deviceType: "email", email: "jdoe@example.com" });
  await letters.nth(1).waitFor();
  const mail = await newest();
  assert.deepEqual(await letters.evaluateAll((all) => all.map((it) => it.id)), [mail.id, text.id]);
  assert.ok((await letters.nth(0).textContent()).includes(mail.subject));

  await picture(browser, "inbox.png", { viewport: DESKTOP });
  await picture(browser, "inbox-phone.png", { viewport: PHONE, deviceScaleFactor: 2 });

  // An e-mail opens where it is, and stays open and in the hand when another message comes.
  const inside = await openLetter(page);
  await inside.getByText(codeIn(mail)).first().waitFor();
  await request({ userName: "jdoe", deviceType: "sms", phoneNumber: "+1 202 555 0123" });
  await letters.nth(2).waitFor();
  const opened = page.locator(`article[id="${mail.id}"] details`);
  assert.equal(await opened.evaluate((it) => it.open), true, "the e-mail is still open");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "SUMMARY", "the focus is where it was");
  await inside.getByText(codeIn(mail)).first().waitFor();
  assert.deepEqual(complaints, []);
  await close();

  await everyLook(browser, "an inbox with messages", async (page) => {
    const inside = await openLetter(page);
    await inside.getByText(codeIn(mail)).first().waitFor();
  });

  // Without JavaScript the page is whole, and promises nothing that it cannot do.
  const plain = await open(browser, { viewport: DESKTOP, javaScriptEnabled: false });
  assert.equal(await plain.page.locator("article").count(), 3);
  assert.equal(await plain.page.getByRole("button", { name: "Copy" }).count(), 0);
  assert.equal(await plain.page.getByText("Live", { exact: true }).isVisible(), false);
  await plain.close();
}

const browser = await chromium.launch({
  executablePath,
  timeout: 60_000,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Whatever a browser wants to know from the rest of the world, it does not.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});
try {
  await look(browser);
} finally {
  await browser.close();
}
