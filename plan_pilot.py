"""Run the chapter's code cells in one process with processor seconds per cell. args: seed out_dir [name=value ...]"""
import sys, json, time, yaml, resource, traceback, os
import matplotlib; matplotlib.use("Agg")
seed, out = int(sys.argv[1]), sys.argv[2]
os.makedirs(out, exist_ok=True)
nb = json.load(open('notebooks/moc.ipynb'))
over = yaml.safe_load(open('notebooks/params/moc.laptop.yaml'))
over.update(seed=seed, out_dir=out, device='cpu')
for a in sys.argv[3:]:
    k, v = a.split('=', 1); over[k] = yaml.safe_load(v)
import builtins
ns = {"__name__": "__main__"}
T = lambda: time.process_time()
t0 = T()
for i, c in enumerate(nb['cells']):
    if c['cell_type'] != 'code': continue
    tags = c['metadata'].get('tags') or []
    src = ''.join(c['source'])
    t, w = T(), time.time()
    try:
        exec(compile(src, f'cell{i}', 'exec'), ns)
        if 'parameters' in tags: ns.update(over)
    except BaseException:
        traceback.print_exc()
        if 'display' not in tags: raise
    print(f"@@ cell {i} cpu {T()-t:.1f} wall {time.time()-w:.1f} total {T()-t0:.1f} rss {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.2f} GB", flush=True)
    if i in (36, 49):
        import pickle; pickle.dump({k: ns.get(k) for k in ('measures','quality','sticky','answers','shapes','cuts','docs')}, open(out+'/frames.pkl','wb'))
    ch = ns.get('ch')
    if ch is not None:
        json.dump({k: v.model_dump() if hasattr(v,'model_dump') else str(v) for k, v in ch._effects.items()}, open(out+'/effects.json','w'), default=str, indent=1)
        json.dump({k: v.model_dump() if hasattr(v,'model_dump') else str(v) for k, v in ch._tables.items()}, open(out+'/tables.json','w'), default=str, indent=1)
import pickle
keep={k: ns.get(k) for k in ("measures","quality","sticky","answers","shapes","noisy","tokens","cuts","docs")}
pickle.dump(keep, open(out+'/frames.pkl','wb'))
print("DONE", T()-t0)
