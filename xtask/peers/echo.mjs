// A child that sends back what it hears, under Node, Bun or Deno, until its parent disconnects.
process.on('message', (message) => {
  process.send(message);
});
