// A page that is opened from disk may start no Worker. This one runs the search in a hidden frame instead, so that it works
// without a server and without a network. Pages that a server sends keep their browser's Worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.ready = new Promise((resolve) => {
        const inside = frame.contentWindow;
        this.inside = inside;
        inside.postMessage = (data) => this.hear("message", data);  // what the search answers
        inside.importScripts = () => Promise.resolve();             // languages but English, of which there are none
        const script = frame.contentDocument.createElement("script");
        script.src = new URL(url, location.href).href;
        script.onload = () => resolve(inside);
        frame.contentDocument.body.append(script);
      });
    }
    hear(kind, data) {
      const event = new MessageEvent(kind, { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
