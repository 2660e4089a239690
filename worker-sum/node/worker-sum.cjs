// The same program for Node: node worker-sum/node/worker-sum.cjs [NUM [WORKERS]]
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

if (isMainThread) {
  const [num = 10, workers = 1] = process.argv.slice(2);
  let total = 0;

  console.log('This is the main thread');
  for (let i = 0; i < workers; i++) {
    // Each worker adds up its part of the range.
    const worker = new Worker(__filename, {
      workerData: { start: Math.ceil(num * i / workers), num: num * (i + 1) / workers }
    });

    worker.on('message', (result) => {
      console.log(`Result from worker: ${result}`);
      total += result;
    });

    worker.on('error', (err) => {
      console.error(err);
    });

    worker.on('exit', (code) => {
      if (code !== 0)
        console.error(`Worker stopped with exit code ${code}`);
    });
  }
  process.on('exit', () => {
    if (workers > 1) console.log(`Result from ${workers} workers: ${total}`);
  });
} else {
  console.log('This is a worker thread');
  if (Number.isNaN(workerData.num)) throw new Error('NUM is not a number');
  // Simulate a CPU-intensive task
  let counter = 0;
  for (let i = workerData.start; i < workerData.num; i++) {
    counter += i;
  }
  parentPort.postMessage(counter);
}
