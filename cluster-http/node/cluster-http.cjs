// The same program for Node: node cluster-http/node/cluster-http.cjs [ADDR [WORKERS]]
const cluster = require('cluster');
const http = require('http');
const numCPUs = require('os').cpus().length;

const [address = '8000', workers = numCPUs] = process.argv.slice(2);
// The host may be an IPv6 address in brackets.
const [, host, port] = /^(?:(.*):)?(.*)$/.exec(address);

if (cluster.isMaster) {
  console.log(`Master ${process.pid} is running`);

  // Fork workers.
  for (let i = 0; i < workers; i++) {
    cluster.fork();
  }

  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.process.pid} died`);
    // Optional: fork a new worker if one dies
    cluster.fork();
  });
} else {
  // Workers can share any TCP connection
  // In this case it is an HTTP server
  http.createServer((req, res) => {
    res.writeHead(200);
    res.end('hello world\n');
  }).listen(port, host?.replace(/[[\]]/g, '') || undefined);

  console.log(`Worker ${process.pid} started`);
}
