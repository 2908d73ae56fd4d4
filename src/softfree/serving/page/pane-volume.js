// A volume in three planes, with its map above it, by NiiVue; it needs WebGL 2.

import { getBuffer } from "./api.js";
import { el } from "./dom.js";

/** Whether this browser can draw volumes. */
export function canDrawVolumes() {
  try {
    return document.createElement("canvas").getContext("webgl2") !== null;
  } catch {
    return false;
  }
}

let loading = null;

function loadNiiVue() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", { src: "vendor/niivue.umd.js" });
    script.addEventListener("load", () => resolve(window.niivue));
    script.addEventListener("error", () => reject(new Error("vendor/niivue.umd.js could not be loaded")));
    document.head.append(script);
  });
  return loading;
}

const COLORS = { for: [255, 75, 62], against: [62, 139, 255] };  // those of the server's maps

function oneColor([red, green, blue]) {
  return { R: [red, red], G: [green, green], B: [blue, blue], A: [255, 255], I: [0, 255] };
}

/** A viewer of one volume and one map. */
export class VolumePane {
  static async open(holder) {
    const library = await loadNiiVue();
    const pane = new VolumePane();
    pane.holder = holder;
    const canvas = el("canvas", { tabIndex: 0, role: "application" });
    canvas.setAttribute("aria-label", "Volume in three planes. The sliders below choose the slices.");
    holder.replaceChildren(canvas);
    pane.niivue = new library.Niivue({
      backColor: [0.035, 0.043, 0.055, 1],
      crosshairColor: [0.45, 0.75, 1, 0.7],
      crosshairWidth: 0.25,
      crosshairWidthUnit: "percent",
      sagittalNoseLeft: true,
      isRadiologicalConvention: true,
      show3Dcrosshair: false,
      isColorbar: false,
      multiplanarForceRender: false,
      multiplanarShowRender: library.SHOW_RENDER?.NEVER ?? 0,
      dragAndDropEnabled: false,
      isOrientationTextVisible: true,
      fontColor: [1, 1, 1, 0.75],
      fontMinPx: 14,
      logLevel: "silent",
    });
    for (const [name, color] of Object.entries(COLORS)) pane.niivue.addColormap(name, oneColor(color));
    pane.types = library.SLICE_TYPE;
    await pane.niivue.attachToCanvas(canvas);
    pane.niivue.onLocationChange = (location) => pane.onmove?.(location);
    return pane;
  }

  async show(base, view) {
    this.view = view;
    const voxels = await getBuffer(`${base}/volume.nii.gz`);
    await this.niivue.loadFromArrayBuffer(voxels, "volume.nii.gz");
    this.setWindow(view.window.low, view.window.high);
    this.setPlane("all");
  }

  async showMap(base, view, query = "") {
    const values = await getBuffer(`${base}/map.nii.gz${query}`);
    await this.niivue.loadFromArrayBuffer(values, "map.nii.gz");
    const map = this.niivue.volumes.at(-1);
    const { limit, signed } = view.map;
    // Below cal_min NiiVue makes opacity the square of the value's share of it. Values are replaced by their roots, so
    // that opacity is proportional to the value, as in the maps of images.
    map.img.forEach((value, index) => { map.img[index] = Math.sign(value) * Math.sqrt(Math.abs(value) * limit); });
    map.colormapType = 1;
    map.colormap = "for";
    map.cal_min = 0.999 * limit;
    map.cal_max = limit;
    if (signed) {
      map.colormapNegative = "against";
      map.cal_minNeg = -limit;
      map.cal_maxNeg = -0.999 * limit;
    }
    this.niivue.setInterpolation(true);  // values of tokens are not smoothed
    this.niivue.updateGLVolume();
  }

  setWindow(low, high) {
    const [volume] = this.niivue.volumes;
    if (!volume) return;
    volume.cal_min = low;
    volume.cal_max = high;
    this.niivue.updateGLVolume();
  }

  setOpacity(value) {
    if (this.niivue.volumes.length > 1) this.niivue.setOpacity(1, value);
  }

  setPlane(name) {
    const types = { all: this.types.MULTIPLANAR, axial: this.types.AXIAL, coronal: this.types.CORONAL, sagittal: this.types.SAGITTAL };
    this.niivue.setSliceType(types[name]);
  }

  /** Go to a slice, counted as the server counts them: from the feet, the back and the left. */
  setSlice(plane, number) {
    const count = this.view.slices[plane];
    const share = (number + 0.5) / count;
    const at = [...this.niivue.scene.crosshairPos];
    // NiiVue counts from left to right, back to front, feet to head; all three run as the server's do.
    at[{ sagittal: 0, coronal: 1, axial: 2 }[plane]] = share;
    this.niivue.scene.crosshairPos = at;
    this.niivue.drawScene();
  }

  /** The slices at the crosshair, counted as the server counts them. */
  slices() {
    const [x, y, z] = this.niivue.scene.crosshairPos;
    const of = (share, plane) => Math.min(this.view.slices[plane] - 1, Math.floor(share * this.view.slices[plane]));
    return { sagittal: of(x, "sagittal"), coronal: of(y, "coronal"), axial: of(z, "axial") };
  }

  zoom(factor) {
    const [x, y, z, scale] = this.niivue.scene.pan2Dxyzmm;
    this.niivue.setPan2Dxyzmm([x, y, z, Math.max(0.5, Math.min(12, scale * factor))]);
  }

  fit() {
    this.niivue.setPan2Dxyzmm([0, 0, 0, 1]);
  }

  close() {
    this.niivue.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.holder.replaceChildren();
  }
}
