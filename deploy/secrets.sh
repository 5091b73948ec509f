#!/bin/sh
# Makes what compose.yaml and the Kubernetes secrets need, once; what is there already stays as it is.
#
# The folder is closed to others. Its files are readable, because containers read them as other users than you.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets/jwt

random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
make() { [ -e "secrets/$1" ] || { printf '%s' "$2" >"secrets/$1.draft" && mv "secrets/$1.draft" "secrets/$1"; }; }

make admin-password "$(random 12)"
make api-key-pepper "$(random 32)"
make cluster-secret "$(random 32)"
make database-password "$(random 24)"
make database-url "postgresql://wattbook:$(cat secrets/database-password)@database:5432/wattbook"
make grafana-password "$(random 12)"
make ray-token "$(random 32)"
make redis-password "$(random 24)"
make redis-url "redis://:$(cat secrets/redis-password)@cache:6379/0"
make wallet-master-keys "1:$(head -c 32 /dev/urandom | base64)"
[ -e secrets/jwt/jwt-0001.pem ] || openssl genpkey -algorithm ed25519 -out secrets/jwt/jwt-0001.pem 2>/dev/null
chmod 0444 secrets/*-* secrets/jwt/*.pem
chmod 0700 secrets secrets/jwt
echo "secrets/: $(ls secrets | tr '\n' ' ')"
