// Sends spans with an official exporter until standard input ends; prints the id of every span that was answered with
// success, a line each.   node sender.mjs http http://127.0.0.1:4318/v1/traces
import { OTLPTraceExporter as Http } from "@opentelemetry/exporter-trace-otlp-proto";
import { OTLPTraceExporter as Grpc } from "@opentelemetry/exporter-trace-otlp-grpc";
import { BasicTracerProvider } from "@opentelemetry/sdk-trace-base";

const [how, url] = process.argv.slice(2);
const exporter = how === "grpc" ? new Grpc({ url, timeoutMillis: 20000 }) : new Http({ url, timeoutMillis: 20000 });
let waiting = [];
const collect = { onStart() {}, onEnd: (span) => waiting.push(span), forceFlush: async () => {}, shutdown: async () => {} };
const tracer = new BasicTracerProvider({ spanProcessors: [collect] }).getTracer("kill");
const send = (spans) => new Promise((done) => exporter.export(spans, (result) => done(result.code === 0)));

let open = true;
process.stdin.on("end", () => (open = false)).resume();
process.stdin.on("close", () => (open = false));

async function work() {
  while (open) {
    for (let k = 0; k < 4; k++) tracer.startSpan("x", { attributes: { n: "y".repeat(2000) } }).end();
    const spans = waiting.splice(0);
    if (await send(spans)) process.stdout.write(spans.map((s) => s.spanContext().spanId + "\n").join(""));
  }
}

await Promise.all([work(), work()]);
await exporter.shutdown();
