// SPDX-License-Identifier: Apache-2.0
// The server's JSON and its events.

let token = sessionStorage.getItem("token");

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more = {}) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : more;
}

async function checked(response) {
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not ours: the status has to do
  }
  throw new Refused(response.status, message);
}

export async function getJson(path, query = {}, signal = undefined) {
  const search = new URLSearchParams(query).toString();
  return (await checked(await fetch(search ? `${path}?${search}` : path, { headers: headers(), signal }))).json();
}

// Posts JSON and calls on[event](data) for each event of the answer.
export async function postForEvents(path, body, on, signal) {
  const response = await checked(
    await fetch(path, {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify(body),
      signal,
    }),
  );
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      let data = null;
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data = JSON.parse(line.slice(6));
      }
      if (data === null) continue;
      if (name === "error") throw new Refused(data.error.code, data.error.message);
      on[name]?.(data);
    }
  }
}
