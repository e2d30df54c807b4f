// An answer while it is written: lines of JSON, one after another, until it ends or is stopped.

/** Send `body`, call `told(line)` for each line that comes back. `signal` stops it. Throws an Error with the server's sentence. */
export async function stream(address, body, told, signal) {
  let answer;
  try {
    answer = await fetch(address, { method: "POST", credentials: "same-origin", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") return;
    throw new Error("The server does not answer; it may have been ended in the terminal.");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `The server answered ${answer.status}.`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const said = JSON.parse(line);
        if (said.error) throw new Error(said.error);
        told(said);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}
