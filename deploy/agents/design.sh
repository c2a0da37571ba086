# Writes its tokens as soon as anybody starts it; in the example it is held until `pitwall activate design`.
mkdir -p design-system
for name in colors space type; do
  echo ":root { --$name: 1 }" > "design-system/$name.css"
  sleep 1
done
while :; do sleep 3600; done
