import sys
from n1 import *
from n2 import st
S=int(sys.argv[1]) if len(sys.argv)>1 else 96
old=start.Reader(Language((),has_formula=False),64); old.load_state_dict(latest("reading")["model"])
print("1200",start.read_right(old,W[1],4000,1).mean(),start.read_right(old,W[0],4000,1).mean(), len(W[0].pictures),len(W[1].pictures),flush=True)
sizes=study.Sizes(64,2,2000,4000,600,2e-3,{"EZPoints":[.1,.4,.36],"Targets":[.05,.25,.12],"NumberLine":[.1,0,.75]})
t=cpu(); rd=study.open_reader(sizes,W,seed,fit=fit); print("2000",f"cpu {cpu()-t:.0f}",start.read_right(rd,W[1],4000,1).mean(),start.read_right(rd,W[0],4000,1).mean(),flush=True)
t=cpu(); w=study.open_world("EZPoints",sizes,rd,W,seed,fit=fit,n_hands=500); print("EZPoints",f"cpu {cpu()-t:.0f}",short(w.first),flush=True)
t=cpu(); m=study.open_world("Targets",sizes,rd,W,seed,fit=fit,n_hands=500); print("Targets",f"cpu {cpu()-t:.0f}",short(m.first),flush=True)
train(w,"RL only",st(2e-4,24,43),(16,24),n=500)
