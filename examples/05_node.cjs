// Certify a frame in Node.js with the bundle's ONNX file, without the rrise SDK.
//
//     npm install onnxruntime-node    # --ignore-scripts leaves out its CUDA libraries, which the processor does not need
//     node examples/05_node.cjs BUNDLE FRAME.raw
//
// FRAME.raw holds the bytes of one uint8 frame [H, W, C] as the manifest's "input" says. Prints label and certified
// radius as JSON. Another runtime than the one in calibration/fp32.json rounds differently: replay the references on
// it before its radii are relied on.

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const ort = require("onnxruntime-node");

async function main(bundle, frameFile) {
  const manifest = JSON.parse(fs.readFileSync(path.join(bundle, "manifest.json"), "utf8"));
  const artefact = manifest.artefacts.fp32;
  const model = fs.readFileSync(path.join(bundle, artefact.file));
  if (crypto.createHash("sha256").update(model).digest("hex") !== artefact.sha256) {
    throw new Error(`${artefact.file} was changed after its release`);
  }

  const session = await ort.InferenceSession.create(model);
  const frame = new ort.Tensor("uint8", new Uint8Array(fs.readFileSync(frameFile)), manifest.input.shape);
  const answer = await session.run({ frame });

  const label = Number(answer.label.data[0]);
  const radius = answer.radius.data[0];
  console.log(JSON.stringify({ label, class: manifest.class_names[label], radius }));
}

if (process.argv.length !== 4) {
  console.error("usage: node 05_node.cjs BUNDLE FRAME.raw");
  process.exit(2);
}
main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(String(error));
  process.exit(1);
});
