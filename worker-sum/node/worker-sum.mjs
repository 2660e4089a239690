// The same program for Node: node worker-sum/node/worker-sum.mjs [NUM [WORKERS]]
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

const SHARE = 2 ** 22;

if (isMainThread) {
  const [num = '10', workers = '1'] = process.argv.slice(2);
  const next = new BigUint64Array(new SharedArrayBuffer(8));
  let total = 0;
  let running = Number(workers);

  console.log('This is the main thread');
  for (let i = 0; i < Number(workers); i++) {
    const worker = new Worker(new URL(import.meta.url), {
      workerData: { num, next },
    });

    worker.on('message', (result) => {
      console.log(`Result from worker: ${result}`);
      total += result;
    });

    worker.on('error', (err) => {
      console.error(err);
    });

    worker.on('exit', (code) => {
      if (code !== 0) console.error(`Worker stopped with exit code ${code}`);
      running -= 1;
      if (running === 0 && Number(workers) > 1) {
        console.log(`Result from ${workers} workers: ${total}`);
      }
    });
  }
} else {
  console.log('This is a worker thread');
  const num = Number(workerData.num);
  if (Number.isNaN(num)) throw new Error(`NUM is '${workerData.num}'`);

  let counter = 0;
  for (;;) {
    const start = Number(Atomics.add(workerData.next, 0, BigInt(SHARE)));
    if (start >= num) break;
    const end = Math.min(start + SHARE, num);
    for (let i = start; i < end; i++) {
      counter += i;
    }
  }
  parentPort.postMessage(counter);
}
