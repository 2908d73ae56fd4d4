// An image, a slide, or slices of a volume, with its map above it, by OpenSeadragon.

import { getBlob } from "./api.js";
import { el } from "./dom.js";

const { OpenSeadragon } = window;

// OpenSeadragon would add a style element, which the content security policy forbids, unless it finds one with this mark;
// its rule is in style.css. An element of another namespace has the mark, but no styles.
const mark = document.createElementNS("urn:softfree", "style");
mark.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(mark);

/** A viewer of one image and one map that lies exactly over it. */
export class ImagePane {
  constructor(holder) {
    this.holder = holder;
    this.opacity = 0.6;
    this.urls = new Map();
    this.items = { image: null, map: null };
    this.order = { image: 0, map: 0 };
    this.viewer = new OpenSeadragon.Viewer({
      element: holder,
      drawer: "canvas",
      showNavigationControl: false,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.4,
      maxZoomPixelRatio: 16,
      minZoomImageRatio: 0.6,
      visibilityRatio: 0.4,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      preserveViewport: true,
      subPixelRoundingForTransparency: OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS,
      timeout: 60_000,
    });
    const canvas = this.viewer.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Image. Arrow keys move it, plus and minus zoom, 0 shows all of it.");
    this.viewer.addHandler("animation", () => this.smooth());
  }

  /** Show an image; `view` says how large it is and whether it comes in tiles. Resolves when it is seen. */
  async show(base, view, query = "") {
    await this.place("image", view.tiled ? tiles(base, "image", view, query) : await untiled(`${base}/image.png${query}`), 0);
    this.smooth();
  }

  /** Show a map above the image. */
  async showMap(base, view, query = "") {
    await this.place("map", view.tiled ? tiles(base, "map", view, query) : await untiled(`${base}/map.png${query}`), 1);
  }

  /** Replace a layer without a gap: the new one is shown when it is complete, then the old one goes. */
  place(layer, { tileSource, url = null }, index) {
    const number = (this.order[layer] += 1);
    return new Promise((resolve, reject) => {
      const old = this.items[layer];
      this.viewer.addTiledImage({
        tileSource,
        index: index && this.items.image ? this.viewer.world.getItemCount() : undefined,
        opacity: layer === "map" ? this.opacity : 1,
        success: ({ item }) => {
          if (number !== this.order[layer]) {  // a later request was faster
            this.viewer.world.removeItem(item);
            resolve();
            return;
          }
          this.items[layer] = item;
          if (layer === "image") this.viewer.world.setItemIndex(item, old ? this.viewer.world.getIndexOfItem(old) + 1 : 0);
          if (layer === "image" && !old) this.viewer.viewport.goHome(true);
          if (url) this.urls.set(item, url);
          let ended = false;
          const finish = () => {
            if (ended) return;
            ended = true;
            if (old) this.drop(old);
            resolve();
          };
          if (item.getFullyLoaded()) finish();
          else {
            item.addOnceHandler("fully-loaded-change", finish);
            setTimeout(finish, 3000);  // a tile that never comes must not keep the old image on the screen
          }
        },
        error: (event) => reject(new Error(event.message ?? "The image could not be shown.")),
      });
    });
  }

  drop(item) {
    if (this.viewer.world.getIndexOfItem(item) >= 0) this.viewer.world.removeItem(item);
    const url = this.urls.get(item);
    if (url) URL.revokeObjectURL(url);
    this.urls.delete(item);
  }

  setOpacity(value) {
    this.opacity = value;
    this.items.map?.setOpacity(value);
  }

  /** Pixels of a magnified image are squares, as the file has them; a reduced one is smooth. */
  smooth() {
    const item = this.items.image;
    if (!item) return;
    const zoom = item.viewportToImageZoom(this.viewer.viewport.getZoom(true)) * OpenSeadragon.pixelDensityRatio;
    this.viewer.drawer.setImageSmoothingEnabled(zoom < 2);
  }

  zoom(factor) {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  fit() {
    this.viewer.viewport.goHome();
  }

  close() {
    for (const url of this.urls.values()) URL.revokeObjectURL(url);
    this.viewer.destroy();
    this.holder.replaceChildren();
  }
}

/** An image or a map in one piece. */
async function untiled(path) {
  const url = URL.createObjectURL(await getBlob(path));
  return { tileSource: { type: "image", url, buildPyramid: true }, url };
}

/** Tiles of an image or a map in the DeepZoom format; the window is part of their address. */
function tiles(base, name, view, query) {
  const [width, height] = view.source;
  const [form, tileSize, tileOverlap] = name === "image" ? ["jpeg", 254, 1] : ["png", 256, 0];
  return {
    tileSource: {
      width,
      height,
      tileSize,
      tileOverlap,
      minLevel: 8,
      maxLevel: Math.ceil(Math.log2(Math.max(width, height))),
      getTileUrl: (level, x, y) => new URL(`${base}/${name}_files/${level}/${x}_${y}.${form}${query}`, document.baseURI).href,
    },
  };
}

/** A place for a pane in the page. */
export const paneHolder = (label) => el("div", { class: "pane", role: "group", "aria-label": label });
