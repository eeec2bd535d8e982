// The search of the site runs in a worker. Browsers start no worker for a page that was opened from a disk (file://), so
// there the worker's script runs in an empty frame.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(frame.contentDocument, address);
      this.inside.importScripts = async (...addresses) => {
        for (const each of addresses) await load(frame.contentDocument, each);
      };
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }
  };

  const load = (page, address) =>
    new Promise((loaded, failed) => {
      const script = page.createElement("script");
      Object.assign(script, { src: new URL(address, location.href), onload: loaded, onerror: failed });
      page.head.append(script);
    });
}
