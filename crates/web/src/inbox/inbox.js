// Keeps the inbox up to date. The stream only says that something came; what came is read from the page itself, so there is
// one place that knows how a message looks, and the page is whole without this file.

const live = document.getElementById("live");
const heard = document.getElementById("heard");

const ids = (root) => new Set(Array.from(root.querySelectorAll("article"), (it) => it.id));

async function refresh() {
  const answer = await fetch("/inbox", { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("letters");
  const shown = document.getElementById("letters");
  const [known, there] = [ids(shown), ids(fresh)];
  const come = Array.from(fresh.querySelectorAll("article")).filter((it) => !known.has(it.id));
  if (come.length === 0 && there.size === known.size) return;
  if (known.size > 0 && there.size > 0) {
    // What is there already is not touched: moved, an open letter would be loaded anew and the focus lost.
    for (const article of shown.querySelectorAll("article")) {
      article.classList.remove("new");
      if (!there.has(article.id)) article.closest("li").remove();
    }
    shown.prepend(...come.map((it) => it.closest("li")));
  } else {
    shown.replaceWith(fresh);
  }
  for (const article of come) {
    prepare(article);
    article.classList.add("new");
  }
  if (come.length > 0) {
    // With the time: what is said twice in the same words is not announced again.
    const [newest] = come;
    const more = come.length > 1 ? `, and ${come.length - 1} more` : "";
    heard.textContent = `${newest.querySelector("h2").textContent}, ${newest.querySelector("time").textContent}${more}`;
  }
}

function prepare(root) {
  for (const time of root.querySelectorAll("time")) {
    time.textContent = new Date(time.dateTime).toLocaleTimeString();
  }
  for (const button of root.querySelectorAll("button[data-code]")) {
    // Only where the browser lets a page copy: on https and on this machine.
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.code);
      button.firstChild.textContent = "Copied";
      heard.textContent = "The code was copied";
      setTimeout(() => (button.firstChild.textContent = "Copy"), 1500);
    });
  }
}

function state(following) {
  live.hidden = false;
  live.classList.toggle("lost", !following);
  live.textContent = following ? "Live" : "Connecting again…";
}

// One after the other: two refreshes at once could put an older list over a newer one.
let turn = Promise.resolve();

prepare(document);
const stream = new EventSource("/inbox/events");
stream.addEventListener("open", () => state(true));
stream.addEventListener("error", () => state(false));
stream.addEventListener("came", () => {
  turn = turn.then(refresh).catch(() => {});
});
