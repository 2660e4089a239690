// A child for Node that answers with a handle, then twice without, and disconnects.
import { connect, createServer } from 'node:net';

process.on('message', () => {
  const server = createServer((socket) => {
    process.send('with a handle', socket);
    process.send('after it');
    process.send('the last');
    process.disconnect();
    server.close();
  });
  server.listen(0, '127.0.0.1', () => connect(server.address().port, '127.0.0.1').resume().end());
});
