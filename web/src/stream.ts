/** Follows one answer as it is written: server-sent events over fetch, resumed by offset when the line drops. */
import { ApiError, api } from "./api";
import type { Message } from "./types";

type StreamEvent = { type: "delta"; offset: number; text: string } | { type: "done"; message: Message };

/** The text of an answer so far. The server counts characters as code points, JavaScript as UTF-16 units: both are kept. */
export class Transcript {
  text = "";
  length = 0;

  /** Put `delta` at `offset` (code points); what was already heard is not said twice. */
  add(offset: number, delta: string): void {
    if (offset < this.length) {
      this.text = Array.from(this.text).slice(0, offset).join("");
      this.length = offset;
    }
    this.text += delta;
    this.length += Array.from(delta).length;
  }
}

/** Yields the events of one response; ignores comments and fields other than `data`. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line.startsWith("data:")) {
          const data = line.slice(5).trim();
          if (data.startsWith("{")) yield JSON.parse(data) as StreamEvent;
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Follow `message` until it is done and return it finished; undefined when `signal` gave up first.
 * `onAway` hears true when the server stops answering and false when it is back.
 */
export async function follow(
  message: string,
  onText: (text: string) => void,
  onAway: (away: boolean) => void,
  signal: AbortSignal,
): Promise<Message | undefined> {
  const transcript = new Transcript();
  for (let attempt = 0; !signal.aborted; attempt++) {
    try {
      const response = await api.stream(message, transcript.length, signal);
      for await (const event of events(response.body!)) {
        onAway(false);
        if (event.type === "done") return event.message;
        attempt = 0;
        transcript.add(event.offset, event.text);
        onText(transcript.text);
      }
      const now = await api.message(message);
      onAway(false);
      if (now.state !== "streaming") return now;
    } catch (error) {
      if (signal.aborted) return undefined;
      if (error instanceof ApiError && error.status >= 400 && error.status < 500) throw error;
      onAway(true);
    }
    await pause(Math.min(4000, 300 * 2 ** attempt));
  }
  return undefined;
}
