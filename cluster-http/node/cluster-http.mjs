// The same program for Node: node cluster-http/node/cluster-http.mjs [ADDR [WORKERS]]
import cluster from 'node:cluster';
import http from 'node:http';
import { availableParallelism } from 'node:os';

const [address, workers = availableParallelism()] = process.argv.slice(2);
const { hostname, port } = address
  ? new URL(`http://${address}`)
  : { port: 8000 };

if (cluster.isPrimary) {
  console.log(`Master ${process.pid} is running`);

  for (let i = 0; i < Number(workers); i++) {
    cluster.fork();
  }

  cluster.on('exit', (worker) => {
    console.log(`worker ${worker.process.pid} died`);
    cluster.fork();
  });
} else {
  http
    .createServer((req, res) => {
      res.writeHead(200);
      res.end('hello world\n');
    })
    .listen({ host: hostname?.replace(/[[\]]/g, ''), port: Number(port || 80) });

  console.log(`Worker ${process.pid} started`);
}
