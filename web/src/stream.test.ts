import { expect, test } from "vitest";
import { Transcript, events } from "./stream";

const body = (...pieces: string[]) =>
  new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(new TextEncoder().encode(piece));
      controller.close();
    },
  });

test("events survive any cut of the bytes", async () => {
  const said = 'data: {"type":"delta","offset":0,"text":"é"}\n\n: ping\n\ndata: {"type":"delta","offset":1,"text":"b"}\n\n';
  const bytes = new TextEncoder().encode(said);
  for (let cut = 0; cut <= bytes.length; cut++) {
    const halves = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(bytes.slice(0, cut));
        controller.enqueue(bytes.slice(cut));
        controller.close();
      },
    });
    const heard = [];
    for await (const event of events(halves)) heard.push(event.type === "delta" ? event.text : "?");
    expect(heard).toEqual(["é", "b"]);
  }
});

test("[DONE] and other fields are not events", async () => {
  const heard = [];
  for await (const event of events(body("id: 1\ndata: [DONE]\n\n"))) heard.push(event);
  expect(heard).toEqual([]);
});

test("a transcript counts code points and hears nothing twice", () => {
  const transcript = new Transcript();
  transcript.add(0, "a😀");
  transcript.add(2, "b");
  expect([transcript.text, transcript.length]).toEqual(["a😀b", 3]);
  transcript.add(1, "😀bc");
  expect([transcript.text, transcript.length]).toEqual(["a😀bc", 4]);
});
