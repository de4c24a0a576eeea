"""Run the chapter's code cells in one process with processor seconds per cell. args: seed out_dir [name=value ...]"""
import json, os, pickle, resource, sys, time, traceback
import matplotlib; matplotlib.use("Agg")
import yaml
seed, out = int(sys.argv[1]), sys.argv[2]
assert seed >= 90, "published seeds are not looked at"
os.makedirs(out, exist_ok=True)
nb = json.load(open("notebooks/moc.ipynb"))
over = yaml.safe_load(open("notebooks/params/moc.laptop.yaml"))
over.update(seed=seed, out_dir=out, device="cpu")
for a in sys.argv[3:]:
    k, v = a.split("=", 1); over[k] = yaml.safe_load(v)
ns, T = {"__name__": "__main__"}, time.process_time
t0 = T()
for i, c in enumerate(nb["cells"]):
    if c["cell_type"] != "code": continue
    t, w, tags = T(), time.time(), c["metadata"].get("tags") or []
    try:
        exec(compile("".join(c["source"]), f"cell{i}", "exec"), ns)
        if "parameters" in tags: ns.update(over)
    except BaseException:
        traceback.print_exc()
        if "display" not in tags: raise
    print(f"@@ cell {i} {c['id']} cpu {T()-t:.1f} wall {time.time()-w:.1f} total {T()-t0:.1f} rss {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB", flush=True)
    ch = ns.get("ch")
    if ch is not None:
        for name in ("_effects", "_tables"):
            json.dump({k: v.model_dump() if hasattr(v, "model_dump") else str(v) for k, v in getattr(ch, name).items()}, open(f"{out}/{name[1:]}.json", "w"), default=str, indent=1)
    keep = {k: ns.get(k) for k in ("measures", "plain", "quality", "noisy", "tokens", "shapes")}
    pickle.dump(keep, open(out + "/frames.pkl", "wb"))
print("DONE", T() - t0)
