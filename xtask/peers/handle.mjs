// A child for Node that answers with a handle, then twice without, and disconnects.
import { connect, createServer } from 'node:net';

// Node's parent may have closed the channel after the first.
const ignore = () => {};

process.on('message', () => {
  const server = createServer((socket) => {
    process.send('with a handle', socket);
    process.send('after it', ignore);
    process.send('the last', ignore);
    process.disconnect();
    server.close();
  });
  server.listen(0, '127.0.0.1', () => connect(server.address().port, '127.0.0.1').resume().end());
});
